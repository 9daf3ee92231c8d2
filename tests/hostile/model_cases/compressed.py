"""`.cp` files, the package's own: damaged anywhere, and rewritten with a checksum that is right again."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hostile_payloads import damage, make_mlp, reading
from hostile_registry import add_case, hostile

GROUP = "compressed models"


@cache
def saved(scheme: str = "prune(density=0.5) | quantize(int8)") -> bytes:
    """Return the file of a compressed network."""
    from cp_compress.model import parse_scheme, save

    with TemporaryDirectory() as folder:
        save(parse_scheme(scheme).compress(make_mlp()), Path(folder, "model.cp"))
        return Path(folder, "model.cp").read_bytes()


def rewritten(change, arrays_change=lambda arrays: None, scheme: str = "prune(density=0.5) | quantize(int8)") -> bytes:
    """Return the file after changes of its table and arrays, as somebody who means harm would write it."""
    import safetensors.numpy

    from cp_compress.model.storage.contents import digest_arrays

    arrays = safetensors.numpy.load(saved(scheme))
    del arrays["sha256"]
    table = json.loads(zlib.decompress(arrays["table"].tobytes()))
    made = change(table)
    text = made if isinstance(made, bytes) else zlib.compress(json.dumps(table if made is None else made).encode())
    arrays["table"] = np.frombuffer(text, np.uint8)
    arrays_change(arrays)
    arrays["sha256"] = np.frombuffer(bytes.fromhex(digest_arrays(arrays)), np.uint8)
    return safetensors.numpy.save(arrays)


def _put(*place):
    """Return the file with one value of its table replaced by another, which is the last of the arguments."""
    *path, last, value = place

    def change(table) -> None:
        holder = table
        for key in path:
            holder = holder[key]
        holder[last] = value

    return lambda: rewritten(change)


def _values(arrays) -> str:
    return next(name for name in arrays if name.startswith("values"))


def _cut_values(arrays) -> None:
    arrays[_values(arrays)] = arrays[_values(arrays)][:-1].copy()


def _double_values(arrays) -> None:
    arrays[_values(arrays)] = np.concatenate([arrays[_values(arrays)]] * 2)


def _bomb(table) -> bytes:
    return zlib.compress(b" " * (1 << 20) + b"{" * 10)


_TABLE = "table is not readable|table"
_FILES = {
    "cut after 7 bytes": (lambda: saved()[:7], "not a supported kind|whole"),
    "cut in its header": (lambda: saved()[:60], "would have"),
    "cut after its header": (
        lambda: saved()[: 8 + int.from_bytes(saved()[:8], "little")],
        "(no whole|not a complete) safetensors",
    ),
    "cut by a byte": (lambda: saved()[:-1], "(no whole|not a complete) safetensors"),
    "a byte longer": (lambda: saved() + b"\0", "(no whole|not a complete) safetensors"),
    "a flipped bit in its values": (lambda: damage(saved(), -40), "checksum"),
    "a flipped bit in its checksum": (
        lambda: damage(saved(), saved().index(b"sha256") + 12),
        "checksum|safetensors|JSON",
    ),
    "a flipped bit in its table": (lambda: damage(saved(), -400, 5), "checksum"),
    "without its table": (
        lambda: rewritten(lambda table: None, lambda arrays: arrays.pop("table")),
        "does not fit the factory",
    ),
    "a table that is not packed": (lambda: rewritten(lambda table: b"{}"), "table is not readable"),
    "a table that is packed in part": (
        lambda: rewritten(lambda table: saved()[:0] + zlib.compress(b"{}" * 99)[:12]),
        _TABLE,
    ),
    "a table of spaces and brackets": (lambda: rewritten(_bomb), "table is not readable"),
    "a table that is a list": (lambda: rewritten(lambda table: [1]), "format version is None"),
    "a table of 100 000 brackets": (
        lambda: rewritten(lambda table: zlib.compress(b"[" * 100_000)),
        "nested too deeply",
    ),
    "a table of another version": (_put("version", 99), "format version is 99"),
    "a table without tensors": (_put("tensors", []), "in the model, not in the file"),
    "tensors that are a number": (_put("tensors", 7), _TABLE),
    "tensors without names": (_put("tensors", 0, 0, []), "twice, or not at all"),
    "a tensor that stands twice": (_put("tensors", 0, 0, ["0.bias", "0.bias"]), "twice, or not at all"),
    "a tensor of another name": (_put("tensors", 0, 0, ["0.other"]), "in the file, not in the model"),
    "two tensors that are said to be one": (
        _put("tensors", 0, 0, ["0.weight", "0.bias"]),
        "in the file, not in the model|one tensor in the file",
    ),
    "an entry of too few parts": (_put("tensors", 0, 1, ["float32"]), "not a table entry"),
    "a dtype that is not there": (_put("tensors", 0, 1, 0, "float33"), "not a table entry"),
    "a dtype of another kind": (_put("tensors", 0, 1, 0, "complex64"), "complex64"),
    "a form that is not there": (_put("tensors", 0, 1, 2, "zip"), "not a table entry"),
    "a shape of 10^14 numbers": (_put("tensors", 0, 1, 1, [10**14]), "has shape"),
    "a shape below zero": (_put("tensors", 0, 1, 1, [-1]), "not a table entry"),
    "a shape beyond 64 bits": (_put("tensors", 0, 1, 1, [1 << 70]), "not a table entry"),
    "a shape of infinity": (_put("tensors", 0, 1, 1, [float("inf")]), "not a table entry"),
    "a count below zero": (_put("tensors", 0, 1, 3, -1), "not a table entry"),
    "a count beyond the tensor": (_put("tensors", 0, 1, 3, 1 << 40), "cannot have|shorter|longer"),
    "no arrangement": (_put("arrangement", None), "arrangement"),
    "steps that are a number": (_put("arrangement", "steps", 7), "arrangement"),
    "a step without a scheme": (_put("arrangement", "steps", [{}]), "arrangement"),
    "steps that name no tensors": (_put("arrangement", "steps", 0, "changes", [[1]]), "arrangement"),
    "integers of a layer that is not there": (_put("arrangement", "integers", 0, 0, "9"), "not in the model"),
    "integers in a mode that is not there": (_put("arrangement", "integers", 0, 2, "magic"), "arrangement"),
    "integers of an infinite shape": (_put("arrangement", "integers", 0, 3, [[float("inf"), 6]]), "arrangement"),
    "integers of a shape of 2^62": (_put("arrangement", "integers", 0, 3, [[1 << 62, 6]]), "has shape"),
    "a factor of infinite rank": (_put("arrangement", "low_rank", [["0", {"weight": float("inf")}]]), "arrangement"),
    "a factor of rank 2^60": (
        _put("arrangement", "low_rank", [["0", {"weight": 1 << 60}]]),
        "no weight that can be held",
    ),
    "a factor of a layer that is not there": (
        _put("arrangement", "low_rank", [["x.y", {"weight": 1}]]),
        "not in the model",
    ),
    "an infinite layer": (_put("arrangement", "sizes", [["0", "out_features", float("inf")]]), "arrangement"),
    "a layer that grows": (_put("arrangement", "sizes", [["0", "out_features", 1 << 40]]), "cannot have out_features"),
    "a layer of no channels": (_put("arrangement", "sizes", [["0", "out_features", 0]]), "cannot have out_features"),
    "a size that is an attribute": (_put("arrangement", "sizes", [["0", "__class__", 1]]), "cannot have __class__"),
    "a cast to a dtype that is not there": (_put("arrangement", "casts", ["float16", "os.system"]), "arrangement"),
    "a cast to one dtype": (_put("arrangement", "casts", ["float16"]), "arrangement"),
    "states of more modules": (_put("arrangement", "training", "0" * 10**6), "1000000 modules"),
    "values that are missing": (lambda: rewritten(lambda table: None, _cut_values), "shorter than the table says"),
    "values that nothing reads": (lambda: rewritten(lambda table: None, _double_values), "longer than the table says"),
}
for _name, (_make, _tells) in _FILES.items():
    add_case(
        GROUP,
        _name,
        lambda folder, make=_make: reading(folder / "model.cp", make(), factory=make_mlp),
        tells=_tells,
        names="model.cp",
    )


@hostile(GROUP, "a network of another architecture", tells="does not fit the model|in the file", names="model.cp")
def _(folder):
    from torch import nn

    return reading(folder / "model.cp", saved(), factory=lambda: nn.Linear(6, 3))


@hostile(GROUP, "an infinite layer, read without the front door", tells="arrangement", names="model.cp")
def _(folder):
    from cp_compress.model import load

    path = folder / "model.cp"
    path.write_bytes(_put("arrangement", "sizes", [["0", "out_features", float("inf")]])())
    return lambda: load(path, make_mlp())


@hostile(GROUP, "a folder, read without the front door", tells="folder", names="model.cp")
def _(folder):
    from cp_compress.model import load

    (folder / "model.cp").mkdir()
    return lambda: load(folder / "model.cp", make_mlp())


@hostile(GROUP, "an endless device, read without the front door", tells="not a regular file", names="model.cp")
def _(folder):
    from cp_compress.model import load

    (folder / "model.cp").symlink_to("/dev/zero")
    return lambda: load(folder / "model.cp", make_mlp())


@hostile(f"control: {GROUP}", "the good file is read", tells="", names="")
def _(folder):
    return reading(folder / "model.cp", saved(), factory=make_mlp)


@hostile(f"control: {GROUP}", "the rewritten file is read", tells="", names="")
def _(folder):
    return reading(folder / "model.cp", rewritten(lambda table: None), factory=make_mlp)
