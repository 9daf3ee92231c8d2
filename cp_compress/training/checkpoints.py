"""Training that can be interrupted at any time: the state to resume a run, in one file that is replaced atomically."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import reject
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.files import write_atomically
from cp_compress.model.storage.files import load, save


def pack_model(model: nn.Module) -> Tensor:
    """Return a model's structure and values, to the bit, as bytes in a tensor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cp"
        save(model, path)
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def unpack_model(content: Tensor, architecture: nn.Module) -> nn.Module:
    """Return the model that `pack_model` packed; `architecture` is what it was made from."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cp"
        path.write_bytes(content.cpu().numpy().tobytes())
        return load(path, architecture)


def write_checkpoint(path: str | os.PathLike[str], identity: dict[str, str], state: dict[str, Any]) -> None:
    """Replace the checkpoint file by the state of a run."""
    buffer = io.BytesIO()
    torch.save({"identity": identity, "state": state}, buffer)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(
    path: str | os.PathLike[str], identity: dict[str, str], device: torch.device, owner: str = "train_compressed"
) -> dict[str, Any] | None:
    """Return the state that was written last, or None where there is no file; errors name `owner`.

    Raises InvalidArgumentError for a file that is no checkpoint, and for that of a run with other settings.
    """
    if not Path(path).exists():
        return None
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        kept, state = dict(content["identity"]), dict(content["state"])
    except Exception as error:
        reject(owner, "checkpoint", os.fspath(path), f"it cannot be read as a checkpoint: {reason_of(error)}")
    other = [name for name in identity if kept.get(name) != identity[name]]
    if other:
        rule = f"it belongs to a run with another {', '.join(other)}; remove it, or use another file"
        reject(owner, "checkpoint", os.fspath(path), rule)
    found: dict[str, Any] = state
    return found
