"""Runs `pytest` and `cp-compress` in processes of their own that begin with the slow libraries imported.

They are forks of one server, which imports them once; `pytest_cp` is not among them: pytest itself must import it.
So are the workers that pytest-xdist starts there, and the programs that a shell finds in `programs()`: their
interpreter asks a second server for a fork and hands over its standard streams. On another system than Linux each is a
new interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from installed import remember_what_is_installed

SECONDS = 900
_FORKS = sys.platform == "linux"  # elsewhere what torch loads may not be forked
PROGRAMS = {"pytest": ("pytest", "main"), "cp-compress": ("cp_compress.cli.main", "main"), "page": ("snippets", "main")}
_IMPORTED = (
    "captum.attr",
    "cp_compress.cli.main",
    "cp_compress.data.zfp.codec",
    "cp_compress.fidelity.attributions.comparison",
    "cp_compress.fidelity.boundaries.comparison",
    "cp_compress.fidelity.observing.observation",
    "cp_compress.search.searching",
    "cp_compress.training.training",
    "hypothesis.strategies",
    "jsonschema",
    "pytest",
    "sklearn.datasets",
    "snippets",
    "torchvision",
)
# what plugins of pytest import, where they are installed
_IMPORTED_IF_THERE = ("anyio._backends._asyncio", "execnet", "jinja2")


def run_program(
    program: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of `PROGRAMS` in a folder; return its exit code and what it printed."""
    variables = dict(os.environ if environment is None else environment)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), variables.get("PYTHONPATH")]))
    if not _FORKS:
        module, name = PROGRAMS[program]
        command = [sys.executable, "-c", f"import sys, {module} as module; sys.exit(module.{name}(sys.argv[1:]))"]
        return subprocess.run(
            [*command, *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=SECONDS
        )
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place, "stdout"), Path(place, "stderr")
        request = {"program": program, "arguments": arguments, "folder": str(folder), "environment": variables}
        server, _ = _server()
        server.stdin.write(json.dumps(request | {"output": str(output), "errors": str(errors)}) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        read = functools.partial(Path.read_text, encoding="utf-8", errors="replace")
        return subprocess.CompletedProcess([program, *arguments], code, read(output), read(errors))


def run_pytest(*arguments: str, folder: Path) -> pytest.RunResult:
    """Run pytest in a folder as `run_program` does; return what `pytester` returns."""
    started = time.monotonic()
    done = run_program("pytest", *arguments, folder=folder)
    return pytest.RunResult(
        done.returncode, done.stdout.splitlines(), done.stderr.splitlines(), time.monotonic() - started
    )


def forking_interpreter() -> str:
    """Return a program that runs `-u -c CODE` and `-m pytest` as Python does, in a fork, all else as Python itself.

    A signal that is sent to it does not reach the fork.
    """
    return _server()[1] if _FORKS else sys.executable


def python_command(code: str, *arguments: str) -> list[str]:
    """Return the command that runs code with arguments as Python does, in a fork where there are any."""
    return [forking_interpreter(), "-u", "-c", f"import sys; sys.argv[1:] = {list(arguments)!r}\n{code}"]


def programs() -> str:
    """Return the folder, or several, in which a shell finds `pytest` and `cp-compress`, to stand first in its path."""
    installed = str(Path(sys.executable).parent)
    return os.pathsep.join([str(Path(_server()[1]).parent), installed]) if _FORKS else installed


@functools.cache
def _server() -> tuple[subprocess.Popen[str], str]:
    started = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    atexit.register(started.communicate)
    return started, json.loads(started.stdout.readline())


def _become(request: dict, interpreter: Path) -> object:
    """Run what is asked for in this process."""
    output, errors = (os.open(request[name], os.O_WRONLY | os.O_CREAT, 0o600) for name in ("output", "errors"))
    _begin(request, os.open(os.devnull, os.O_RDONLY), output, errors)
    sys.path.insert(0, request["folder"])
    sys.executable, sys.argv = str(interpreter), [request["program"], *request["arguments"]]
    signal.alarm(SECONDS)
    module, name = PROGRAMS[request["program"]]
    return getattr(importlib.import_module(module), name)(request["arguments"])


def _begin(request: dict, *streams: int) -> None:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, (name, stream) in enumerate(zip(("stdin", "stdout", "stderr"), streams, strict=True)):
        os.dup2(stream, number)
        os.close(stream)
        mode = "w" if number else "r"
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.modules["__main__"] = types.ModuleType("__main__")


def _end(call: Callable[[], object]) -> None:
    """Call a function and end this process with what it returns; nothing of the server's own is undone."""
    code = 1
    try:
        code = int(call() or 0)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


_ASKING = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    request = {"code": sys.argv[2], "arguments": sys.argv[3:], "folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(server, [b"streams"], [0, 1, 2])
    server.sendall(json.dumps(request).encode() + b"\\n")
    for stream in (0, 1, 2):  # the fork alone holds them, so its end is their end
        os.close(stream)
    os._exit(int(server.recv(8) or 1))
"""
_INTERPRETER = """#!/bin/sh
if [ "$1 $2" = "-m pytest" ]; then
    shift 2
    exec '{python}' -S -E '{folder}/asking.py' '{folder}/socket' \\
        'import sys; sys.path.insert(0, ""); import pytest; sys.exit(pytest.main(sys.argv[1:]))' "$@"
fi
if [ $# = 3 ] && [ "$1 $2" = "-u -c" ]; then
    exec '{python}' -S -E '{folder}/asking.py' '{folder}/socket' "$3"
fi
exec '{python}' "$@"
"""
_PROGRAM = """#!/bin/sh
exec '{python}' -S -E '{folder}/asking.py' '{folder}/socket' \\
    'import sys, {module} as module; sys.exit(module.{name}(sys.argv[1:]))' "$@"
"""


def _serve_workers(listener: socket.socket, lifeline: int, interpreter: Path) -> None:
    """Run each program that is asked for in a fork, until the other server ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while lifeline not in select.select([listener, lifeline], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            _end(functools.partial(_answer, connection, listener, interpreter))
        connection.close()


def _answer(connection: socket.socket, listener: socket.socket, interpreter: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, len(b"streams"), 3)
    request = json.loads(connection.makefile().readline())
    child = os.fork()
    if child == 0:
        connection.close()
        listener.close()
        _begin(request, *streams)
        sys.path[:0] = filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))
        sys.executable, sys.argv = str(interpreter), ["-c", *request["arguments"]]
        _end(functools.partial(exec, request["code"], vars(sys.modules["__main__"])))
    for stream in streams:
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # who asked may have been ended before
        connection.sendall(str(code & 255).encode())


def _import_plugins() -> None:
    """Import what a run of pytest imports, as it does: modules of plugins that it has not rewritten, it warns of."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pytest.ini").write_text("[pytest]\n")
        Path(folder, "test_any.py").write_text("import pytest_cp\nfrom pytest_cp import *\ndef test(): pass\n")
        arguments = ["-q", "-p", "no:cacheprovider", "--rootdir", folder, folder]
        kept = sys.path[:]
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main(arguments)
        sys.path[:] = kept  # a run leaves there where its tests are
        del sys.modules["test_any"]


def serve() -> None:
    """Answer each request on standard input with the exit code of its fork."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    for name in _IMPORTED:
        importlib.import_module(name)
    for name in _IMPORTED_IF_THERE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _import_plugins()
    remember_what_is_installed()
    examples = importlib.import_module("cp_compress.examples")
    examples.digits_cnn(), examples.digits()
    sys.path.pop(0)  # where this file is
    for name in {"hypothesis", "_hypothesis_globals", "anyio"} & sys.modules.keys():
        # or pytest warns that it can no longer rewrite them
        sys.modules[name].__doc__ = f"{sys.modules[name].__doc__} PYTEST_DONT_REWRITE"
    gc.freeze()  # else each fork looks through all of it whenever it collects, and pytest does so ten times a run
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        interpreter = Path(folder, "python")
        interpreter.write_text(_INTERPRETER.format(python=sys.executable, folder=folder))
        for program, (module, name) in PROGRAMS.items():
            text = _PROGRAM.format(python=sys.executable, folder=folder, module=module, name=name)
            Path(folder, program).write_text(text)
        for made in (interpreter, *(Path(folder, program) for program in PROGRAMS)):
            made.chmod(0o700)
        Path(folder, "asking.py").write_text(_ASKING)
        listener.bind(f"{folder}/socket")
        listener.listen()
        lifeline, held = os.pipe()
        if os.fork() == 0:
            os.close(held)
            answers.close()
            _end(functools.partial(_serve_workers, listener, lifeline, interpreter))
        print(json.dumps(str(interpreter)), file=answers, flush=True)
        for line in sys.stdin:
            child = os.fork()
            if child == 0:
                _end(functools.partial(_become, json.loads(line), interpreter))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    serve()
