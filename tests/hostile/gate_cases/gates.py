"""Gates that pytest runs on hostile specifications, data and models: they fail, and show no tracebacks."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from hostile_payloads import make_mlp, python_code, shell_command, written
from hostile_registry import add_case, hostile

from gate_cases.specifications import GOOD, changed

GROUP = "gates"
SUBJECTS = """
import torch
from torch import nn

def make_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval().requires_grad_(False)

def make_data():
    inputs = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    return inputs, make_model()(inputs).argmax(dim=1)
"""


class FailedGate(Exception):
    """A run of pytest failed, or refused its configuration; the message is what it printed."""


def run_pytest(folder: Path, *arguments: str) -> None:
    """Run pytest in a folder; raises FailedGate with what it printed, RuntimeError where pytest itself broke."""
    import pytest

    printed = io.StringIO()
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            plugins = ("-p", "no:cacheprovider", "-p", "no:unraisableexception", "--capture=sys", f"--rootdir={folder}")
            code = pytest.main([*plugins, *arguments])
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in ("subjects", "test_gate", "conftest"):
            sys.modules.pop(name, None)
    if code == pytest.ExitCode.INTERNAL_ERROR:
        raise RuntimeError(printed.getvalue())
    if code != pytest.ExitCode.OK:
        raise FailedGate(printed.getvalue())


def runs(folder: Path, content: bytes | str, *arguments: str, **files: bytes | str):
    """Write a specification and what lies beside it, and return the call that runs its gate."""
    written(folder / "pytest.ini", "[pytest]\n")
    written(folder / "subjects.py", SUBJECTS)
    written(folder / "gate.toml", content)
    for name, text in files.items():
        written(folder / name.replace("__", "."), text)
    return lambda: run_pytest(folder, "--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml", *arguments)


_UP = "../" * 40
_MODEL, _DATA, _SCHEME = "subjects:make_model", "subjects:make_data", 'scheme = "prune(density=0.4)"'
_TEXTS = {
    "a specification that is no TOML": ("[reference\n", "gate.toml:1: not valid TOML"),
    "a specification of another encoding": (GOOD.encode("utf-16"), "gate.toml: cannot be read"),
    "a specification that requires nothing": (changed("min_agreement = 0.5", ""), "has no requirement"),
    "a number of 40 000 bits": (changed("0.5", "0x" + "f" * 10_000), "more than 64 bits"),
    "a bound that is no number": (changed("0.5", "nan"), "min_agreement = nan: must be a number"),
    "a factory that ends the process": (changed(_MODEL, "os:abort"), "os is a module of the standard library"),
    "a factory that forks": (changed(_MODEL, "os:fork"), "os is a module of the standard library"),
    "a factory that waits for input": (
        changed(_MODEL, "builtins:input"),
        "builtins is a module of the standard library",
    ),
    "a factory that starts a debugger": (changed(_MODEL, "builtins:breakpoint"), "a module of the standard library"),
    "a factory that crashes": (
        changed(_MODEL, "faulthandler:_sigsegv"),
        "faulthandler is a module of the standard library",
    ),
    "a factory that interrupts": (
        changed(_MODEL, "_thread:interrupt_main"),
        "_thread is a module of the standard library",
    ),
    "a factory that opens a browser": (
        changed(_MODEL, "antigravity:webbrowser.open"),
        "of the standard library",
    ),
    "a factory of Python behind another module": (
        changed(_MODEL, "pytest_cp.session.state:os.abort"),
        "a module of the standard library",
    ),
    "a factory that exits": (changed(_MODEL, "evil:leave"), "raised SystemExit"),
    "a factory that asks for too much memory": (changed(_MODEL, "evil:hoard"), "raised MemoryError"),
    "a factory that calls itself": (changed(_MODEL, "evil:recurse"), "raised RecursionError"),
    "a factory in a module that raises": (changed(_MODEL, "broken:make"), "importing broken raised ZeroDivisionError"),
    "a factory in a module that exits": (changed(_MODEL, "leaving:make"), "importing leaving raised SystemExit"),
    "a factory in a module that is no Python": (
        changed(_MODEL, "garbage:make"),
        "module garbage is no Python: garbage.py:1",
    ),
    "a factory that is not there": (changed(_MODEL, "nowhere:make"), "no module is called nowhere"),
    "a factory of another form": (changed(_MODEL, "../../evil.py"), "is the name of a file, not of a function"),
    "a factory that is a module": (changed(_MODEL, "torch:nn"), "which is not callable"),
    "a factory that wants arguments": (changed(_MODEL, "torch:load"), "needs f"),
    "a factory that gives no model": (changed(_MODEL, "evil:nothing"), "the reference is a NoneType"),
    "data that are no data": (changed(_DATA, "evil:nothing"), "dataset is a NoneType"),
    "data that are not there": (changed('examples = "subjects:make_data"', 'file = "nowhere.npz"'), "no such file"),
    "data that are no archive": (
        changed('examples = "subjects:make_data"', 'file = "subjects.py"'),
        "is not a .npz file",
    ),
    "a model that is not there": (changed(_SCHEME, 'file = "nowhere.pt"'), "nowhere.pt.*no such file"),
    "a model that is no model": (changed(_SCHEME, 'file = "subjects.py"'), "not a supported kind"),
    "a model that is the specification": (changed(_SCHEME, 'file = "gate.toml"'), "not a supported kind"),
    "a model that is the folder": (changed(_SCHEME, 'file = "."'), "without a config.json"),
    "a model that is an endless device": (changed(_SCHEME, 'file = "/dev/zero"'), "not a regular file"),
    "a model of many dots": (changed(_SCHEME, f'file = "{_UP}etc/passwd"'), "not a supported kind"),
    "a program that fails": (changed(_SCHEME, 'command = ["false", "{input}", "{output}"]'), "ended with exit code 1"),
    "a program that is not there": (
        changed(_SCHEME, 'command = ["nowhere", "{input}", "{output}"]'),
        "an executable program",
    ),
    "a program without its input": (changed(_SCHEME, 'command = ["true"]'), "must have {input}"),
    "metadata that are no CSV": (
        changed(_DATA + '"', _DATA + '"\nmetadata = "evil.py"').replace(
            "min_agreement = 0.5", 'min_slice_agreement = 0.1\nslices = {a = {column = "x", equals = 1}}'
        ),
        "evil.py",
    ),
    "divergences that are no archive": (
        changed(
            "[predictions]\nmin_agreement = 0.5",
            '[divergence]\nmax_divergence_rate = 0.5\nreplay = "evil.py"',
        ),
        "evil.py is not a saved divergence",
    ),
    "a device that is not there": (GOOD + '\n[execution]\ndevice = "warp:9"\n', "device 'warp:9' cannot be used here"),
    "a tolerance that is no number": (GOOD + '\n[baseline]\ntolerance = "much"\n', "'much': must be a number"),
    "a waiver that says nothing": (GOOD + "\n[[waiver]]\n", "waiver 1: missing at_worst"),
}
_FILES = {
    "evil__py": (
        "def leave():\n    raise SystemExit(0)\n"
        "def hoard():\n    raise MemoryError\n"
        "def recurse():\n    return recurse()\n"
        "def nothing():\n    return None\n"
    ),
    "broken__py": "1 / 0\ndef make(): ...\n",
    "leaving__py": "raise SystemExit(0)\ndef make(): ...\n",
    "garbage__py": "\\x80 def (",
}
for _name, (_text, _tells) in _TEXTS.items():
    add_case(GROUP, _name, lambda folder, text=_text: runs(folder, text, **_FILES), tells=_tells, names="gate.toml")


@hostile(GROUP, "a model that is a pickle", tells="pickles, which can run any code", names="model.pt")
def _(folder):
    import torch

    action = runs(folder, changed(_SCHEME, 'file = "model.pt"'))
    torch.save(make_mlp(), folder / "model.pt")
    return action


@hostile(GROUP, "a model whose weights are no numbers", tells="NaN", names="gate.toml")
def _(folder):
    import torch

    action = runs(folder, changed(_SCHEME, 'file = "model.pt"\nfactory = "subjects:make_model"'))
    weights = {name: torch.full_like(value, torch.nan) for name, value in make_mlp().state_dict().items()}
    torch.save(weights, folder / "model.pt")
    return action


@hostile(GROUP, "a command that would need a shell", tells="exit code", names="gate.toml")
def _(folder):
    return runs(folder, changed(_SCHEME, f'command = ["cat", """; {shell_command()}""", "{{input}}", "{{output}}"]'))


@hostile(GROUP, "a scheme that is code", tells="gate.toml:10: scheme .*cannot be read", names="gate.toml")
def _(folder):
    return runs(folder, changed("prune(density=0.4)", python_code().replace('"', "'").replace("\\", "")))


@hostile(f"control: {GROUP}", "the good gate passes", tells="", names="")
def _(folder):
    return runs(folder, GOOD)
