"""Compressed models, made once for each content: in memory, and on disk where there is a folder for it."""

from __future__ import annotations

import copy
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cp_compress.model import Scheme

_LOCK_SECONDS = 1800


class CompressedModelCache:
    """Compressed models by the content of their reference, their scheme, and the versions that made them.

    `folder` is where they are kept between runs and shared by workers, or None for memory alone. A folder that
    cannot be read or written, and a stored file that is damaged, cost time but change no result; `notes` says
    so once.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self._models: dict[tuple[str, str], nn.Module] = {}

    def compress(self, model: nn.Module, scheme: Scheme, device: torch.device) -> nn.Module:
        """Return the model compressed by the scheme on the device, made now or before; do not change it."""
        from cp_compress.base.digests import digest_model

        digest = digest_model(model)
        if digest is None:
            kind = type(model).__name__
            raise TypeError(f"reference_model is a {kind}; only a torch.nn.Module can be compressed by a scheme")
        key = (self._content_key(digest, scheme), str(device))
        if key not in self._models:
            self._models[key] = self._from_disk_or_new(key[0], model, scheme, device)
        return self._models[key]

    @staticmethod
    def _content_key(digest: str, scheme: Scheme) -> str:
        import torch

        import cp_compress
        from cp_compress.base.digests import digest_text

        versions = (cp_compress.__version__, torch.__version__, platform.machine())
        return digest_text(digest, str(scheme), *versions)

    def _from_disk_or_new(self, key: str, model: nn.Module, scheme: Scheme, device: torch.device) -> nn.Module:
        from filelock import FileLock, Timeout

        on_device = _moved(model, device)
        if self.folder is None:
            return scheme.compress(on_device)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{key}.lock", timeout=_LOCK_SECONDS):
                return self._locked(self.folder / f"{key}.cp", on_device, scheme)
        except (OSError, Timeout) as error:
            self._note(f"compressed models are not kept in {self.folder}: {error}")
            return scheme.compress(on_device)

    def _locked(self, path: Path, model: nn.Module, scheme: Scheme) -> nn.Module:
        from cp_compress.base.errors import CompressionError, CorruptStreamError
        from cp_compress.model import load, save

        if path.exists():
            try:
                return load(path, model)
            except (CorruptStreamError, CompressionError) as error:
                self._note(f"a stored compressed model was made again: {error}")
        compressed = scheme.compress(model)
        save(compressed, path)
        return compressed

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _moved(model: nn.Module, device: torch.device) -> nn.Module:
    from cp_compress.fidelity.running import model_device

    own = model_device(model)
    return model if own is None or own == device else copy.deepcopy(model).to(device)
