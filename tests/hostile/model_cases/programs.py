"""Programs as models that hang, lie, flood, or leave something else than logits."""

from __future__ import annotations

import sys

from hostile_payloads import make_data, python_code, shell_command, written
from hostile_registry import add_case, hostile

GROUP = "programs"
_START, _LOAD = "import os, sys; given, made = sys.argv[1:]; ", "import numpy as n; x = n.load(given); "


def running(code: str, **options):
    """Return the call of a program of Python, which is told where its input and output lie."""
    from cp_compress.artifacts import ProgramModel

    inputs, start = make_data()[0], _START + (_LOAD if "n.save" in code else "")
    return lambda: ProgramModel([sys.executable, "-I", "-c", start + code, "{input}", "{output}"], **options)(inputs)


_SAVE = "n.save(made, {})"
_PROGRAMS = {
    "exit code 3": ("print('no licence'); sys.exit(3)", "exit code 3; it printed: no licence"),
    "a crash": ("os.abort()", "ended with signal 6"),
    "a word on the error stream": ("sys.exit('out of memory on the board')", "out of memory on the board"),
    "no output": ("pass", "its output cannot be opened"),
    "an empty output": ("open(made, 'w')", "is empty"),
    "garbage": ("open(made, 'wb').write(os.urandom(999))", "not a .npy array"),
    "a text": ("open(made, 'w').write('1,2,3')", "not a .npy array"),
    "objects": (
        "import pickle; n.save(made, n.array([print] * 8, dtype=object), allow_pickle=True)",
        "no pickled objects",
    ),
    "half an array": ("n.save(made, x[:, :3]); os.truncate(made, 150)", "are present"),
    "a header of 10^15 numbers": (
        "n.save(made, x[:, :3]); b = open(made, 'rb').read().replace(b'(8, 3)', b'(8,9999999)')[:128]; "
        "open(made, 'wb').write(b)",
        "states|not a .npy array",
    ),
    "whole numbers": (_SAVE.format("n.ones((8, 3), int)"), "int64 values of shape"),
    "complex numbers": (_SAVE.format("n.ones((8, 3), complex)"), "complex128 values"),
    "truth values": (_SAVE.format("n.ones((8, 3), bool)"), "bool values"),
    "texts": (_SAVE.format("n.full((8, 3), 'x')"), "expected numbers"),
    "one example too few": (_SAVE.format("x[1:, :3]"), r"shape \(7, 3\) for 8 examples"),
    "one example too many": (_SAVE.format("n.vstack([x, x[:1]])"), r"shape \(9, 6\) for 8 examples"),
    "one dimension": (_SAVE.format("x[:, 0]"), r"shape \(8,\) for 8 examples"),
    "one number": (_SAVE.format("n.float32(3)"), r"shape \(\) for 8 examples"),
    "an archive of too few": ("n.savez(open(made, 'wb'), x[1:, :3])", r"arr_0 .*shape \(7, 3\) for 8 examples"),
    "an archive of nothing": ("n.savez(open(made, 'wb'))", "not a .npy array"),
    "an archive of objects": ("n.savez(open(made, 'wb'), a=n.array([print] * 8))", "no pickled objects"),
    "a member outside of its archive": (
        "import zipfile; zipfile.ZipFile(made, 'w').writestr('../a.npy', b'x')",
        "leaves the archive",
    ),
    "a folder": ("os.mkdir(made)", "is a folder"),
    "a FIFO": ("os.mkfifo(made)", "is not a regular file"),
    "a link to an endless device": ("os.symlink('/dev/zero', made)", "is not a regular file"),
    "20 MB of prints": ("print('x' * 20_000_000); sys.exit(1)", "exit code 1; it printed: x"),
    "control characters": ("print('\\x1b[2J\\x07\\0 broken'); sys.exit(1)", "broken"),
    "bytes that are no text": ("os.write(1, bytes(range(256))); sys.exit(1)", "exit code 1"),
    "the folder removed": ("import shutil; shutil.rmtree(os.path.dirname(made))", "its output cannot be opened"),
    "its log replaced by a FIFO": (
        "log = os.path.join(os.path.dirname(made), 'printed.txt'); os.unlink(log); os.mkfifo(log); sys.exit(2)",
        "exit code 2",
    ),
    "its log replaced by a folder": (
        "log = os.path.join(os.path.dirname(made), 'printed.txt'); os.unlink(log); os.mkdir(log); sys.exit(2)",
        "exit code 2",
    ),
}
for _name, (_code, _tells) in _PROGRAMS.items():
    add_case(GROUP, f"leaves {_name}", lambda folder, code=_code: running(code), tells=_tells, names="python")


@hostile(GROUP, "hangs", tells="did not end within 0.5 s", names="python")
def _(folder):
    return running("import time; time.sleep(1000)", timeout=0.5)


@hostile(GROUP, "hangs and ignores signals", tells="did not end within 0.6 s", names="python")
def _(folder):
    code = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; time.sleep(1000)"
    return running(code, timeout=0.6)


@hostile(GROUP, "ends, and leaves a child behind", tells="its output cannot be opened", names="python")
def _(folder):
    return running("os.fork() or __import__('time').sleep(1000)", timeout=60)


@hostile(GROUP, "writes more than is allowed", tells="has 3,328 bytes; at most 1,000", names="echo")
def _(folder):
    from cp_compress.artifacts import ProgramModel

    program = written(folder / "echo", '#!/bin/sh\nhead -c 3328 /dev/zero > "$2"\n')
    program.chmod(0o755)
    return lambda: ProgramModel([program, "{input}", "{output}"], max_bytes=1000)(make_data()[0])


@hostile(GROUP, "is not there", tells="not an executable program", names="nowhere")
def _(folder):
    from cp_compress.artifacts import ProgramModel

    return lambda: ProgramModel([folder / "nowhere", "{input}", "{output}"])


@hostile(GROUP, "is no program", tells="cannot be started: Exec format error", names="notes")
def _(folder):
    from cp_compress.artifacts import ProgramModel

    notes = written(folder / "notes", b"\0\1\2 no program")
    notes.chmod(0o755)
    return lambda: ProgramModel([notes, "{input}", "{output}"])(make_data()[0])


@hostile(GROUP, "is a text for a shell", tells="must be a list", names="command")
def _(folder):
    from cp_compress.artifacts import ProgramModel

    return lambda: ProgramModel(f"cat {{input}} > {{output}}; {shell_command()}")


@hostile(GROUP, "has an argument for a shell", tells="exit code|usage|cannot|no such", names="cat")
def _(folder):
    from cp_compress.artifacts import ProgramModel

    return lambda: ProgramModel(["cat", f"; {shell_command()} #", "{input}", "{output}"])(make_data()[0])


@hostile(GROUP, "is told nothing", tells="must have {input} among the arguments", names="command")
def _(folder):
    from cp_compress.artifacts import ProgramModel

    return lambda: ProgramModel([sys.executable, "-c", "pass"])


@hostile(GROUP, "changes while it is in use", tells="has changed since the model was made", names="weights")
def _(folder):
    from cp_compress.artifacts import ProgramModel

    weights = written(folder / "weights", "1")
    model = ProgramModel([sys.executable, "-c", "pass", "{input}", "{output}", weights])
    written(weights, python_code())
    return lambda: model(make_data()[0])


@hostile(GROUP, "reads weights from a FIFO", tells="not a regular file", names="weights")
def _(folder):
    import os

    from cp_compress.artifacts import ProgramModel

    os.mkfifo(folder / "weights")
    return lambda: ProgramModel([sys.executable, "-c", "pass", "{input}", "{output}"], files=[folder / "weights"])


@hostile(f"control: {GROUP}", "a good program is run", tells="", names="")
def _(folder):
    return running(_SAVE.format("x[:, :3]"))
