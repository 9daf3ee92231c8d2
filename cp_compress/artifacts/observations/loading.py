"""Frozen observations read from files; no file is trusted, and none holds code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, told
from cp_compress.artifacts.observations.format import TOKENS, Entry, read_layout
from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.digests import start_digest
from cp_compress.base.errors import ArtifactError
from cp_compress.fidelity.frozen.content import FrozenContent
from cp_compress.fidelity.frozen.observation import FrozenObservation
from cp_compress.fidelity.language.frozen_tokens import FrozenTokens

_OWNER = "load_observation"
_BLOCK = 1 << 22
_SHORTEST_DIGEST = 12


@explains_keywords
def load_observation(
    path: str | os.PathLike[str], *, digest: str | None = None, max_bytes: int = MAX_BYTES
) -> FrozenObservation:
    """Return the observation that `save_observation` or `cp-compress observe` wrote, without its model and data.

    It stands where an observation does, and in the place of a model in assertions. All of the file is held against its
    digests now, and each tensor again when it is read.

    Args:
        path: The file.
        digest: The SHA-256 digest that the file must have, as `sha256sum` prints it, or its first 12 digits or more;
            "sha256:" may stand before it. By default any.
        max_bytes: The largest size of the file.

    Returns:
        The observation.

    Raises:
        ArtifactError: If the file is damaged, too large, no observation or that of a language model, or has another
            digest. The file is named.
        InvalidArgumentError: If an argument is not as described.
    """
    found = read_observation(path, digest=digest, max_bytes=max_bytes)
    if not isinstance(found, FrozenObservation):
        raise ArtifactError(path, "is that of a language model: read it by load_language_observation")
    return found


@explains_keywords
def load_language_observation(
    path: str | os.PathLike[str], *, digest: str | None = None, max_bytes: int = MAX_BYTES
) -> FrozenTokens:
    """Return the observation that `observe_language_to_file` or `cp-compress observe --level language` wrote.

    It stands in the place of a model in `compare_language` and `assert_language_preserved`.

    Args:
        path: The file.
        digest: The digest that the file must have, as `load_observation` takes it.
        max_bytes: The largest size of the file.

    Returns:
        The observation.

    Raises:
        ArtifactError: As `load_observation`, and for an observation of another kind.
        InvalidArgumentError: If an argument is not as described.
    """
    found = read_observation(path, digest=digest, max_bytes=max_bytes)
    if not isinstance(found, FrozenTokens):
        raise ArtifactError(path, "is not that of a language model: read it by load_observation")
    return found


def read_observation(
    path: str | os.PathLike[str], *, digest: str | None = None, max_bytes: int = MAX_BYTES
) -> FrozenObservation | FrozenTokens:
    """Return the observation of either kind that a file holds; raises as `load_observation`."""
    limit, pinned = check_max_bytes(_OWNER, max_bytes), check_digest(_OWNER, digest)
    with opened(path, limit) as file, told(path, "reading it as an observation"):
        document, entries = read_layout(file, path)
        found = _verify(file, path, entries)
        if pinned is not None and not found.startswith(pinned):
            raise ArtifactError(path, f"has the digest {found}, and {digest} is required: it is another observation")
        content = FrozenContent(os.fspath(path), found, document, _Tensors(Path(path).absolute(), limit, entries))
        return FrozenTokens(content) if document["kind"] == TOKENS else FrozenObservation(content)


def check_digest(owner: str, digest: str | None) -> str | None:
    """Return the digits of a digest that a file must have; raises InvalidArgumentError for what is none."""
    if digest is None:
        return None
    digits = digest.removeprefix("sha256:").lower() if isinstance(digest, str) else ""
    if not _SHORTEST_DIGEST <= len(digits) <= 64 or set(digits) - set("0123456789abcdef"):
        reject(owner, "digest", digest, "must be a SHA-256 digest in hexadecimal digits, or its first 12 or more")
    return digits


class _Tensors(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is asked for and held against its digest."""

    def __init__(self, path: Path, limit: int, entries: Mapping[str, Entry]) -> None:
        self._path, self._limit, self._entries = path, limit, entries

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        if entry.nbytes:
            room = tensor.reshape(-1).view(torch.uint8).numpy()
            with opened(self._path, self._limit) as file:
                file.seek(entry.start)
                read = file.readinto(room)  # type: ignore[attr-defined]
            running = start_digest()
            running.update(room[:read].data)
            if running.hexdigest() != entry.digest:
                raise ArtifactError(self._path, f"has changed since it was opened: {name} has other bytes")
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _verify(file: BinaryIO, path: str | os.PathLike[str], entries: Mapping[str, Entry]) -> str:
    """Return the digest of an open file; raises ArtifactError where a tensor has not the digest that it should have."""
    file.seek(0)
    whole = start_digest()
    placed = sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes))
    first = placed[0][1].start if placed else 0
    whole.update(file.read(first))
    for name, entry in placed:
        own, left = start_digest(), entry.nbytes
        while left and (block := file.read(min(left, _BLOCK))):
            own.update(block)
            whole.update(block)
            left -= len(block)
        if own.hexdigest() != entry.digest:
            raise ArtifactError(path, f"is damaged: the bytes of {name} have another digest than its header says")
    return whole.hexdigest()
