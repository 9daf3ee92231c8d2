"""Any program as a model: it reads a batch from a `.npy` or `.npz` file and writes the logits to another.

So a deployed runtime, an emulator or an attached board can be held to the same requirements as a module in torch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from cp_compress.artifacts.archives import ZIP_MAGIC, open_archive
from cp_compress.artifacts.arrays import member_names, read_array, read_member_array
from cp_compress.artifacts.fixed_batches import BatchSizes, run_in_sizes
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, size_of
from cp_compress.base.arguments import check_integer, check_real, explains_keywords, reject
from cp_compress.base.digests import digest_file, digest_text
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import ArtifactError, CompressionError, ObservationError
from cp_compress.inputs.trees import Inputs, TensorTree, as_inputs, leaves_of

_OWNER = "ProgramModel"
_INPUT, _OUTPUT = "{input}", "{output}"
_TOLD = 2000
_SCRIPTS = (".py", ".sh", ".bash", ".pl", ".rb", ".js", ".lua", ".bat", ".ps1", ".toml", ".json", ".yaml", ".txt")


@explains_keywords
class ProgramModel:
    """A program that maps a batch to logits, run once for each batch, without a shell.

    The batch and the logits are files in a temporary folder; the program runs in the current folder. The program, all
    arguments that are files, and `files` determine `content_digest`, by which baselines recognise the model; a change
    of any of them while the model is in use is an error. Calls raise ObservationError, with the end of what the program
    printed, for an exit code other than 0, a timeout, and an output that is not as described.

    Args:
        command: The program and its arguments, in which {input} and {output} stand for the paths of `.npy` files. The
            first holds the batch (n, ...) in the data set's dtype; the second must hold floating-point logits (n,
            classes) when the program has ended with exit code 0. The inputs of examples that have several come as the
            arrays of a `.npz` file, by their names or as "0", "1", …; a program that gives several outputs (n, ...)
            writes them as one too, with `numpy.savez`, and `output=` of a comparison, or else "logits", says which is
            compared.
        files: Further files that the program reads, such as weights.
        environment: Environment variables to add to those of this process.
        batch_size: The only batch size that the program takes: other batches are padded and split. None for any size.
        timeout: The largest duration of one call, in seconds.
        max_bytes: The largest size of the output file.

    Raises:
        InvalidArgumentError: If the command lacks {input} or {output}, or another argument is not as described.
        ArtifactError: If the program or a file does not exist.

    >>> import sys
    >>> code = "import sys, numpy as n; x = n.load(sys.argv[1]); n.save(sys.argv[2], n.stack([x, -x], 1))"
    >>> negate = ProgramModel([sys.executable, "-c", code, "{input}", "{output}"])
    >>> negate(torch.tensor([1.0, 2.0])).tolist()
    [[1.0, -1.0], [2.0, -2.0]]
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        files: Sequence[str | os.PathLike[str]] = (),
        environment: Mapping[str, str] | None = None,
        batch_size: int | None = None,
        timeout: float = 600.0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.command = _checked_command(command)
        self.environment = dict(environment or {})
        self.timeout = check_real(_OWNER, "timeout", timeout, "must be seconds above 0", above=0)
        self.max_bytes = check_max_bytes(_OWNER, max_bytes)
        self._sizes = BatchSizes()
        if batch_size is not None:
            rule = "must be a whole number of 1 or more"
            size = check_integer(_OWNER, "batch_size", batch_size, rule, at_least=1)
            self._sizes = BatchSizes(size, size, size)
        program = shutil.which(self.command[0], path=self.environment.get("PATH"))
        if program is None:
            raise ArtifactError(self.command[0], "is not an executable program")
        named = [argument for argument in self.command[1:] if _is_file(argument)]
        self._files = {os.fspath(path): _state(path) for path in (program, *named, *files)}
        digests = [self._digest(path) for path in self._files]
        told = [f"{name}={value}" for name, value in sorted(self.environment.items())]
        self.content_digest = digest_text("program", *self.command, *told, str(batch_size), *digests)
        self._program = program

    def __repr__(self) -> str:
        return f"ProgramModel({list(self.command)})"

    @property
    def file_bytes(self) -> int:
        """The size of the files that the command names, `files` included, without interpreters and tools of the system.

        Raises CompressionError where these are scripts alone: what they read is not known.
        """
        named = {path: state[1] for path, state in self._files.items() if not self._is_of_system(path)}
        if all(Path(path).suffix in _SCRIPTS for path in named):
            raise CompressionError(
                f"the size of the command {self.command[0]} is not known: it names no file that could hold weights; "
                "name them among its arguments, or by ProgramModel(files=[…])"
            )
        return sum(named.values())

    def _is_of_system(self, path: str) -> bool:
        if path != self._program:
            return False
        folders = os.get_exec_path(os.environ | self.environment)
        return os.path.realpath(path) == os.path.realpath(sys.executable) or str(Path(path).parent) in folders

    def __call__(self, *batch: Any, **named: Any) -> Any:
        """Return the logits (n, classes) of a batch (n, ...), or a dict of several outputs, on the batch's device."""
        for path, state in self._files.items():
            if _state(path) != state:
                raise ArtifactError(path, "has changed since the model was made: make a new model")
        given = batch[0] if len(batch) == 1 and not named else named or batch
        return run_in_sizes(self._run, as_inputs(given), self._sizes)

    def _digest(self, path: str) -> str:
        with opened(path, self.max_bytes) as file:
            return digest_file(file)

    def _run(self, batch: Inputs) -> Any:
        leaves = leaves_of(batch)
        if any(tensor.dtype == torch.bfloat16 for tensor in leaves):
            raise ObservationError("inputs are torch.bfloat16, which a .npy file cannot hold: convert the data set")
        with tempfile.TemporaryDirectory(prefix="cp-program-") as folder:
            several = isinstance(batch, TensorTree)
            given, made = Path(folder, f"input.{'npz' if several else 'npy'}"), Path(folder, "output.npy")
            arrays = [tensor.detach().cpu().contiguous().numpy() for tensor in leaves]
            if isinstance(batch, TensorTree):
                with zipfile.ZipFile(given, "w") as archive:  # numpy.savez takes no array called "file"
                    for name, array in zip(batch.names, arrays, strict=True):
                        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, array, allow_pickle=False)
            else:
                np.save(given, arrays[0], allow_pickle=False)
            arguments = [part.replace(_INPUT, str(given)).replace(_OUTPUT, str(made)) for part in self.command]
            printed = self._execute(arguments, Path(folder, "printed.txt"))
            device = leaves[0].device
            found = self._read(_written(made), len(batch), printed)
            if isinstance(found, dict):
                return {name: tensor.to(device) for name, tensor in found.items()}
            return found.to(device)

    def _execute(self, arguments: list[str], log: Path) -> str:
        """Run the program to its end and return the end of what it printed."""
        with log.open("w+b") as printed:
            try:
                process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    env=os.environ | self.environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise ObservationError(f"{self.command[0]} cannot be started: {reason_of(error)}") from error
            try:
                code = process.wait(self.timeout)
            except subprocess.TimeoutExpired as error:
                message = f"{self.command[0]} did not end within {self.timeout:g} s"
                raise ObservationError(message) from error
            finally:
                _end(process)
            text = _last_of(printed)
        if code != 0:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise ObservationError(f"{self.command[0]} ended with {how}; it printed: {text or 'nothing'}")
        return text

    def _read_several(self, archive: zipfile.ZipFile, path: Path, count: int) -> Tensor | dict[str, Tensor]:
        found = {name: read_member_array(archive, name, path, "biuf") for name in member_names(archive)}
        wrong = {name: one for name, one in found.items() if one.ndim < 1 or len(one) != count}
        if wrong or not any(one.dtype.kind == "f" for one in found.values()):
            told = ", ".join(f"{name} of {one.dtype} values of shape {one.shape}" for name, one in found.items())
            raise ObservationError(
                f"{self.command[0]} wrote {told or 'nothing'} for {count} examples; expected arrays ({count}, ...), "
                "one of them of floating-point numbers"
            )
        tensors = {name: torch.from_numpy(one) for name, one in found.items()}
        return tensors if len(tensors) > 1 else next(iter(tensors.values()))

    def _read(self, path: Path, count: int, printed: str) -> Tensor | dict[str, Tensor]:
        try:
            with opened(path, self.max_bytes) as file:
                if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
                    return self._read_several(open_archive(file, path, self.max_bytes), path, count)
                file.seek(0)
                logits = read_array(file, size_of(file), path)
        except ArtifactError as error:
            said = f"; it printed: {printed}" if printed else ""
            absent = isinstance(error.__cause__, FileNotFoundError)
            problem = "cannot be opened: there is no such file" if absent else error.problem
            raise ObservationError(f"{self.command[0]}: its output {problem}{said}") from error
        if logits.dtype.kind != "f" or logits.dtype.itemsize > 8 or logits.ndim < 2 or len(logits) != count:
            found = f"{logits.dtype} values of shape {logits.shape}"
            raise ObservationError(
                f"{self.command[0]} wrote {found} for {count} examples; expected floating-point logits "
                f"({count}, classes)"
            )
        return torch.from_numpy(logits)


def _written(path: Path) -> Path:
    """Return where a program has written: `numpy.savez` adds its own ending to the path that it was given."""
    added = path.with_name(f"{path.name}.npz")
    return added if added.exists() and not path.exists() else path


def _checked_command(command: Any) -> tuple[str, ...]:
    if isinstance(command, (str, bytes)) or not isinstance(command, Sequence) or not command:
        reject(_OWNER, "command", command, "must be a list of the program and its arguments, because no shell is used")
    if not all(isinstance(part, (str, os.PathLike)) for part in command):
        reject(_OWNER, "command", command, "must hold only texts and paths")
    parts = tuple(os.fspath(part) for part in command)
    for placeholder in (_INPUT, _OUTPUT):
        if not any(placeholder in part for part in parts[1:]):
            reject(_OWNER, "command", list(parts), f"must have {placeholder} among the arguments")
    return parts


def _is_file(argument: str) -> bool:
    try:
        return stat.S_ISREG(Path(argument).stat().st_mode)
    except (OSError, ValueError):
        return False


def _state(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:
        raise ArtifactError(path, f"cannot be opened: {error}") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it has started, whether it has ended by itself or not."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _last_of(printed: BinaryIO) -> str:
    """Return the end of what a program printed, from the file that was given to it: its name may lead elsewhere now."""
    printed.seek(max(0, size_of(printed) - _TOLD))
    return shortened(printed.read().decode("utf-8", "replace"), _TOLD)
