"""What several kinds of cases are made of: code that leaves a trace when it runs, damage, archives, and good inputs."""

from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path

CANARY = "CP_HOSTILE_CANARY"


def canary() -> Path:
    """Return the file that a payload makes when it is run."""
    return Path(os.environ[CANARY])


def shell_command() -> str:
    """Return a command that makes the canary."""
    return f"touch '{canary()}'"


def python_code() -> str:
    """Return a Python expression that makes the canary."""
    return f"__import__('os').system({shell_command()!r})"


class Reduced:
    """An object whose pickle calls a function with arguments when it is read."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def damage(content: bytes, position: int, bit: int = 0) -> bytes:
    """Return bytes with one bit flipped, at a position that may count from the end."""
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


def scatter(content: bytes, seed: int, count: int, start: int = 0) -> bytes:
    """Return bytes of which `count` were replaced by others, at random places from `start` on."""
    chance, changed = random.Random(seed), bytearray(content)
    for _ in range(count):
        changed[chance.randrange(start, len(changed))] ^= chance.randrange(1, 256)
    return bytes(changed)


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of members, in their order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    """Return the members of a zip archive by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as made:
        return {name: made.read(name) for name in made.namelist()}


def make_mlp(seed: int = 0):
    """Return the small network that all good files here hold."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def make_data(count: int = 8):
    """Return inputs (n, 6) and labels (n,) for that network."""
    import torch

    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    return inputs, torch.arange(count) % 3


def observe_logits(model):
    """Return the logits of a model on the data, as a gate would ask for them."""
    from cp_compress.fidelity import observe

    return observe(model, make_data()).logits


def written(path: Path, content: bytes | str) -> Path:
    """Write a file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def reading(path: Path, content: bytes | str, **options):
    """Write a file, and return the call that reads it as a model of `make_mlp`."""
    from cp_compress.artifacts import read_artifact

    written(path, content)
    return lambda: read_artifact(path, **options)
