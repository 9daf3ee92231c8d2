"""Compressed models, made once for each content: in memory, and on disk where there is a folder for it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cp_compress.base.error_reasons import reason_of, shortened
from pytest_cp.checks.cached import note_cached

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cp_compress.model import Scheme

Key = TypeVar("Key")
Value = TypeVar("Value")
_LOCK_SECONDS = 1800
_REFERENCES = 2
"""The candidates of so many references are held at a time: those of the tests that run, and of those before them."""
_LARGEST_DESCRIPTION = 1 << 24


class CompressedModelCache:
    """Compressed models by the content of their reference, their scheme, and the versions that made them.

    `folder` is where they are kept between runs and shared by workers, or None for memory alone. A folder that
    cannot be read or written, and a stored file that is damaged or was made from something else, cost time but change
    no result; `notes` says so once. A model that comes from a file says so in the records of its checks.
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
        asked = _asked_for(digest, scheme) if own else {}
        content = _key(asked) if own else f"{digest} {id(scheme)}"
        if not own:
            self._held.append(scheme)  # so that its id is not reused
        key = (content, str(device))
        held = last_used(self._models, digest, dict, _REFERENCES)
        if key not in held:
            folder = self.folder if own else None
            held[key] = self._from_disk_or_new(folder, asked, model, scheme, device)
        return held[key]

    def _from_disk_or_new(
        self, folder: Path | None, asked: dict[str, Any], model: nn.Module, scheme: Scheme, device: torch.device
    ) -> nn.Module:
        from filelock import FileLock, Timeout

        from cp_compress.model.scheme import apply_scheme

        on_device = _moved(model, device)
        if folder is None:
            return apply_scheme(scheme, on_device)
        key = _key(asked)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{key}.lock", timeout=_LOCK_SECONDS):
                return self._locked(folder / f"{key}.cp", asked, on_device, scheme)
        except (OSError, Timeout) as error:
            self._note(f"compressed models are not cached in {folder}: {error}")
            return apply_scheme(scheme, on_device)

    def _locked(self, path: Path, asked: dict[str, Any], model: nn.Module, scheme: Scheme) -> nn.Module:
        from cp_compress.base.errors import CompressionError, CorruptStreamError
        from cp_compress.model import save
        from cp_compress.model.scheme import apply_scheme

        if path.exists():
            try:
                loaded = _read(path, asked, model, scheme)
                note_cached(loaded, str(path))
                return loaded
            except (CorruptStreamError, CompressionError) as error:
                self._note(f"a cached compressed model could not be read and was created again: {error}")
        compressed = apply_scheme(scheme, model)
        save(compressed, path)
        _describe(path, asked, compressed)
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


def _asked_for(digest: str, scheme: Scheme) -> dict[str, Any]:
    """Return all that the result of a scheme depends on."""
    import torch

    import cp_compress
    from cp_compress.base.extensions import is_added
    from cp_compress.base.identity import identify
    from cp_compress.model.scheme import scheme_content

    return {
        "reference": digest,
        "scheme": scheme_content(scheme),
        # the text of a user's own scheme does not identify its code
        "code": identify(scheme) if is_added(scheme) else "",
        "versions": [cp_compress.__version__, torch.__version__, platform.machine()],
    }


def _key(asked: dict[str, Any]) -> str:
    from cp_compress.base.digests import digest_text

    return digest_text(asked["reference"], asked["scheme"], asked["code"], *asked["versions"])


def _describe(path: Path, asked: dict[str, Any], compressed: nn.Module) -> None:
    """Write beside a file what it is the answer to, which steps made it, and the digest of its bytes."""
    from cp_compress.base.files import write_atomically
    from cp_compress.model import compression_steps

    made = {"steps": list(compression_steps(compressed)), "file": _digest(path)}
    write_atomically(path.with_suffix(".json"), json.dumps(asked | made, indent=2) + "\n")


def _read(path: Path, asked: dict[str, Any], model: nn.Module, scheme: Scheme) -> nn.Module:
    """Return the model of a file that is what was asked for; raises CorruptStreamError for any other."""
    from cp_compress.base.documents import read_document
    from cp_compress.base.errors import CorruptStreamError
    from cp_compress.base.files import read_regular_text
    from cp_compress.model import compression_steps, load

    try:
        told = read_document(read_regular_text(path.with_suffix(".json"), _LARGEST_DESCRIPTION))
    except (OSError, ValueError) as error:
        raise CorruptStreamError(f"{path}: its description beside it cannot be read: {reason_of(error)}") from error
    wrong = [name for name, value in asked.items() if not isinstance(told, dict) or told.get(name) != value]
    if wrong:
        raise CorruptStreamError(f"{path} was made with another {', '.join(wrong)} than was asked for")
    if told.get("file") != _digest(path):
        raise CorruptStreamError(f"{path} is not the file that was written there")
    loaded = load(path, model)
    steps = list(compression_steps(loaded))
    own = " | ".join(steps[len(compression_steps(model)) :])
    if steps != told.get("steps") or (type(scheme).__module__.startswith("cp_compress.") and own != str(scheme)):
        raise CorruptStreamError(f"{path} was made by {shortened(own, 200) or 'no scheme'}, not by {scheme}")
    return loaded


def _digest(path: Path) -> str:
    from cp_compress.base.digests import digest_file

    with path.open("rb") as file:
        return digest_file(file)


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
