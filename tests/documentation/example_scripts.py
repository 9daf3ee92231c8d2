"""Scripts of `examples/`, run in the tests' process as the command line runs them."""

import contextlib
import importlib
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@contextlib.contextmanager
def scripts_of(folder, capsys):
    """Give a function (script, *arguments) that runs a script's `main` and returns what it prints.

    While it is given, modules of the same names from elsewhere stand aside.
    """
    pytest.importorskip("matplotlib")
    threads, names = torch.get_num_threads(), {path.stem for path in EXAMPLES.glob("*/*.py")}
    aside = {name: sys.modules.pop(name) for name in names & set(sys.modules)}

    def run(script, *arguments):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        importlib.import_module(script).main()
        return capsys.readouterr().out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        yield run
    torch.set_num_threads(threads)
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(aside)
