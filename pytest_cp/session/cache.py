"""Compressed models, made once for each content: in memory, and on disk where there is a folder for it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cp_compress.model import Scheme

Key = TypeVar("Key")
Value = TypeVar("Value")
_LOCK_SECONDS = 1800
_REFERENCES = 2
"""The candidates of so many references are held at a time: those of the tests that run, and of those before them."""


class CompressedModelCache:
    """Compressed models by the content of their reference, their scheme, and the versions that made them.

    `folder` is where they are kept between runs and shared by workers, or None for memory alone. A folder that
    cannot be read or written, and a stored file that is damaged, cost time but change no result; `notes` says
    so once.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self._held: list[Scheme] = []
        self._models: dict[str, dict[tuple[str, str], nn.Module]] = {}

    def compress(self, model: nn.Module, scheme: Scheme, device: torch.device) -> nn.Module:
        """Return the model compressed by the scheme on the device, made now or before; do not change it."""
        from cp_compress.base.digests import digest_model

        digest = digest_model(model)
        if digest is None:
            kind = type(model).__name__
            raise TypeError(f"reference_model is a {kind}; only a torch.nn.Module can be compressed by a scheme")
        own = _is_named_by_its_text(scheme)
        content = self._content_key(digest, scheme) if own else f"{digest} {id(scheme)}"
        if not own:
            self._held.append(scheme)  # so that its id is not reused
        key = (content, str(device))
        held = last_used(self._models, digest, dict, _REFERENCES)
        if key not in held:
            folder = self.folder if own else None
            held[key] = self._from_disk_or_new(folder, content, model, scheme, device)
        return held[key]

    @staticmethod
    def _content_key(digest: str, scheme: Scheme) -> str:
        import torch

        import cp_compress
        from cp_compress.base.digests import digest_text
        from cp_compress.base.extensions import is_added
        from cp_compress.base.identity import identify
        from cp_compress.model.scheme import scheme_content

        versions = (cp_compress.__version__, torch.__version__, platform.machine())
        # the text of a user's own scheme does not identify its code
        code = identify(scheme) if is_added(scheme) else ""
        return digest_text(digest, scheme_content(scheme), code, *versions)

    def _from_disk_or_new(
        self, folder: Path | None, key: str, model: nn.Module, scheme: Scheme, device: torch.device
    ) -> nn.Module:
        from filelock import FileLock, Timeout

        from cp_compress.model.scheme import apply_scheme

        on_device = _moved(model, device)
        if folder is None:
            return apply_scheme(scheme, on_device)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{key}.lock", timeout=_LOCK_SECONDS):
                return self._locked(folder / f"{key}.cp", on_device, scheme)
        except (OSError, Timeout) as error:
            self._note(f"compressed models are not cached in {folder}: {error}")
            return apply_scheme(scheme, on_device)

    def _locked(self, path: Path, model: nn.Module, scheme: Scheme) -> nn.Module:
        from cp_compress.base.errors import CompressionError, CorruptStreamError
        from cp_compress.model import load, save
        from cp_compress.model.scheme import apply_scheme

        if path.exists():
            try:
                return load(path, model)
            except (CorruptStreamError, CompressionError) as error:
                self._note(f"a cached compressed model could not be read and was created again: {error}")
        compressed = apply_scheme(scheme, model)
        save(compressed, path)
        return compressed

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def last_used(held: dict[Key, Value], key: Key, make: Callable[[], Value], limit: int) -> Value:
    """Return the value of a key, made where there is none; of all keys, hold the `limit` that were last asked for."""
    held[key] = held.pop(key) if key in held else make()
    for oldest in list(held)[:-limit]:
        del held[oldest]
    return held[key]


def _is_named_by_its_text(scheme: Scheme) -> bool:
    """Tell whether the text of a scheme defines it completely; that of a user's own scheme may not."""
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.model import parse_scheme

    try:
        return bool(parse_scheme(str(scheme)) == scheme)
    except InvalidArgumentError:
        return False


def _moved(model: nn.Module, device: torch.device) -> nn.Module:
    from cp_compress.fidelity.observing.runner import model_device
    from cp_compress.model.copying import copy_whole

    own = model_device(model)
    return model if own is None or own == device else copy_whole(model).to(device)
