"""The exceptions that `cp_compress` raises, one for each kind of failure."""

from __future__ import annotations

import importlib.metadata
import os
import re

from cp_compress.base.error_reasons import shortened


class InvalidArgumentError(ValueError):
    """An argument has a value that is not allowed; raised before any work is done."""


class CompressionError(RuntimeError):
    """A scheme or codec cannot be applied to a model or data, or would have no effect on it."""


class NoEffectError(CompressionError):
    """A scheme or repair would leave the model unchanged, because what it would do is already the case."""


class FactoryError(RuntimeError):
    """A factory that the user named raised an exception; the message names the factory and what it raised."""


class TrainingError(RuntimeError):
    """Training cannot continue: the loss is not finite, or a checkpoint belongs to another run."""


class CorruptStreamError(ValueError):
    """An encoded example or a stored artefact is damaged.

    `index` is the position of the damaged example in the batch or data set, or None for a whole file.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class ObservationError(RuntimeError):
    """A model cannot be observed on a data set: wrong shapes, labels out of range, NaN logits, no examples."""


class NothingComparedError(AssertionError):
    """Candidate and reference are the same, so that every check would pass without comparing anything."""


class ArtifactError(RuntimeError):
    """A file that holds a model or data is refused: damaged, hostile, too large, or of another kind.

    `path` names the file, `problem` says what is wrong with it.
    """

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        self.path, self.problem = os.fspath(path), problem
        super().__init__(self.path, problem)

    def __str__(self) -> str:
        path = self.path if self.path.isprintable() else shortened(self.path)  # its name may be a stranger's
        return f"{path}: {self.problem}"


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message names the extra, and a command that installs its packages.

    It names the packages instead of the extra, so that it works wherever pytest-cp was installed from.
    """

    def __init__(self, feature: str, extra: str) -> None:
        message = f"{feature} needs packages that are not installed, the extra pytest-cp[{extra}]"
        packages = " ".join(f'"{package}"' for package in _packages_of(extra))
        super().__init__(f"{message}: pip install {packages}" if packages else message)
        self.extra = extra


def _packages_of(extra: str) -> list[str]:
    """Return the requirements of an extra as the installed distribution declares them; none where it declares none."""
    try:
        declared = importlib.metadata.requires("pytest-cp") or []
    except importlib.metadata.PackageNotFoundError:  # imported from a folder, without having been installed
        return []
    parts = [requirement.partition(";") for requirement in declared]
    return [package.strip() for package, _, marker in parts if re.search(rf"extra == .{re.escape(extra)}.", marker)]


FORESEEN: tuple[type[Exception], ...] = (
    ArtifactError,
    CompressionError,
    CorruptStreamError,
    FactoryError,
    InvalidArgumentError,
    MissingExtraError,
    NothingComparedError,
    ObservationError,
    OSError,
)
"""Errors whose message is sufficient, so that it is shown without a traceback."""
