"""`.pt` and `.pth` files that run code when they are unpickled; nothing of them may run."""

from __future__ import annotations

import builtins
import copyreg
import importlib
import io
import os
import pickle
import runpy
import subprocess
import sys

from hostile_payloads import (
    Reduced,
    archive,
    canary,
    make_mlp,
    members_of,
    python_code,
    reading,
    shell_command,
    written,
)
from hostile_registry import add_case, hostile

GROUP = "pickles"
_REFUSED = "pickles, which can run any code"


def torch_archive(pickled: bytes, **storages: bytes) -> bytes:
    """Return the archive that `torch.save` writes, around a pickle and storages by number."""
    members = {"model/data.pkl": pickled, "model/byteorder": b"little", "model/version": b"3\n"}
    return archive(members | {f"model/data/{name[1:]}": content for name, content in storages.items()})


def _nested() -> bytes:
    return torch_archive(pickle.dumps(Reduced(os.system, shell_command())))


def _saved_module() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(make_mlp(), buffer)
    return buffer.getvalue()


def _legacy(value) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _load_from_bytes(content: bytes) -> Reduced:
    from torch.storage import _load_from_bytes as load

    return Reduced(load, content)


def _torch_load(content: bytes) -> Reduced:
    import torch

    return Reduced(torch.load, Reduced(io.BytesIO, content))


def _object_array() -> Reduced:
    import numpy as np

    array = np.array([Reduced(os.system, shell_command())], dtype=object)
    return Reduced(pickle.loads, pickle.dumps(array))


_GADGETS = {
    "os.system": lambda: Reduced(os.system, shell_command()),
    "builtins.eval": lambda: Reduced(eval, python_code()),
    "builtins.exec": lambda: Reduced(exec, python_code()),
    "subprocess.check_call": lambda: Reduced(subprocess.check_call, ["touch", str(canary())]),
    "getattr of an imported module": lambda: Reduced(
        builtins.getattr, Reduced(importlib.import_module, "os"), "system"
    ),
    "runpy of a module": lambda: Reduced(runpy.run_module, "antigravity"),
    "open for writing": lambda: Reduced(open, str(canary()), "w"),
    "a nested pickle": lambda: Reduced(pickle.loads, pickle.dumps(Reduced(os.system, shell_command()))),
    "torch.load of a nested archive": lambda: _torch_load(_nested()),
    "torch's own loading of bytes": lambda: _load_from_bytes(_nested()),
    "a pickled array of objects": _object_array,
    "copyreg's reconstructor": lambda: Reduced(copyreg._reconstructor, io.BytesIO, object, None),
    "an attribute of sys": lambda: Reduced(sys.exit, 0),
}

for _name, _gadget in _GADGETS.items():
    for _form, _packed in (
        ("archive", lambda value: torch_archive(pickle.dumps({"0.weight": value}, protocol=2))),
        ("archive of protocol 4", lambda value: torch_archive(pickle.dumps([value], protocol=4))),
        ("legacy file", lambda value: _legacy({"0.weight": value})),
    ):
        if _form != "archive" and _name not in ("os.system", "builtins.eval", "torch's own loading of bytes"):
            continue
        add_case(
            GROUP,
            f"{_name} in a {_form}",
            lambda folder, gadget=_gadget, packed=_packed: reading(
                folder / "model.pt", packed(gadget()), factory=make_mlp
            ),
            tells=_REFUSED,
            names="model.pt",
        )

_OPCODES = {
    "INST": lambda: b"\x80\x02(S'" + shell_command().replace("'", '"').encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda: b"\x80\x02(cos\nsystem\nS'" + shell_command().replace("'", '"').encode() + b"'\no.",
    "GLOBAL and REDUCE": lambda: b"\x80\x02cos\nsystem\n(S'" + shell_command().replace("'", '"').encode() + b"'\ntR.",
    "STACK_GLOBAL": lambda: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "EXT1": lambda: b"\x80\x02\x82\x01)R.",
    "NEWOBJ_EX of a Popen": lambda: b"\x80\x04csubprocess\nPopen\n\x8c\x04true\x85}\x92.",
    "BUILD of a class": lambda: b"\x80\x02csite\nmain\n}b.",
    "a persistent id that is a call": lambda: b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000tQ.",
}
for _name, _make in _OPCODES.items():
    add_case(
        GROUP,
        f"the opcode {_name}",
        lambda folder, make=_make: reading(folder / "weights.pth", torch_archive(make()), factory=make_mlp),
        tells=_REFUSED,
        names="weights.pth",
    )


@hostile(GROUP, "a whole module", tells=f"{_REFUSED}.*allow_pickle=True", names="model.pt")
def _(folder):
    return reading(folder / "model.pt", _saved_module())


@hostile(GROUP, "a whole module in a legacy file", tells=_REFUSED, names="model.pt")
def _(folder):
    return reading(folder / "model.pt", _legacy(make_mlp()), factory=make_mlp)


@hostile(GROUP, "a bare pickle without torch's marks", tells=_REFUSED, names="model.pkl")
def _(folder):
    return reading(
        folder / "model.pkl", pickle.dumps(Reduced(os.system, shell_command()), protocol=4), factory=make_mlp
    )


@hostile(GROUP, "a bare pickle of protocol 0", tells="not a supported kind", names="model.pt")
def _(folder):
    return reading(folder / "model.pt", pickle.dumps(Reduced(os.system, shell_command()), protocol=0), factory=make_mlp)


@hostile(GROUP, "a TorchScript archive", tells="TorchScript archive, which holds code", names="model.pt")
def _(folder):
    import torch

    torch.jit.save(torch.jit.trace(make_mlp(), torch.zeros(1, 6)), str(folder / "model.pt"))
    return reading(folder / "model.pt", (folder / "model.pt").read_bytes(), factory=make_mlp)


@hostile(GROUP, "a TorchScript archive that is asked for as weights", tells=_REFUSED, names="model.pt")
def _(folder):
    import torch

    from cp_compress.artifacts import load_torch

    torch.jit.save(torch.jit.trace(make_mlp(), torch.zeros(1, 6)), str(folder / "model.pt"))
    return lambda: load_torch(folder / "model.pt", make_mlp)


@hostile(GROUP, "a clean pickle before one that runs code", tells="twice", names="model.pt")
def _(folder):
    members = members_of(_saved_module())
    evil = archive({"other/data.pkl": pickle.dumps(Reduced(os.system, shell_command()))})
    content = archive({"other/data.pkl": b"\x80\x02}."} | members)
    return reading(folder / "model.pt", _appended(content, "other/data.pkl", members_of(evil)["other/data.pkl"]))


@hostile(GROUP, "a second pickle whose name differs in its case", tells="twice", names="model.pt")
def _(folder):
    evil = pickle.dumps(Reduced(os.system, shell_command()))
    members = {"model/data.pkl": b"\x80\x02}.", "model/DATA.pkl": evil, "model/version": b"3\n"}
    return reading(folder / "model.pt", archive(members), factory=make_mlp)


@hostile(GROUP, "pickles as the weights of a folder of transformers", tells="weights are pickles", names="model")
def _(folder):
    written(folder / "model/config.json", '{"model_type": "bert"}')
    written(folder / "model/pytorch_model.bin", _nested())
    from cp_compress.artifacts import read_artifact

    return lambda: read_artifact(folder / "model")


@hostile(GROUP, "a module that is trusted by a word, not by True", tells="must be True or False", names="allow_pickle")
def _(folder):
    return reading(folder / "model.pt", _nested(), factory=make_mlp, allow_pickle="yes")


def _appended(content: bytes, name: str, member: bytes) -> bytes:
    import warnings
    import zipfile

    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the name that stands twice
        made.writestr(name, member)
    return buffer.getvalue()


def _tower(levels: int) -> bytes:
    """Return a pickled dict whose key is a tuple of two tuples that are one, and so on: 2^levels values to hash."""
    pairs = b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(levels))
    return b"\x80\x02}K\x01K\x01\x86" + pairs + b"K\x01s."


@hostile(GROUP, "a key that takes 2^60 steps to hash", tells="exponential time", names="model.pt")
def _(folder):
    return reading(folder / "model.pt", torch_archive(_tower(60)), factory=make_mlp)


@hostile(GROUP, "a key that takes 2^60 steps to hash, in a legacy file", tells="exponential time", names="model.pt")
def _(folder):
    marks = b"".join(pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    return reading(folder / "model.pt", marks + _tower(60), factory=make_mlp)


@hostile(f"control: {GROUP}", "an archive that torch is let read runs its code", tells="executed", names="")
def _(folder):
    import torch

    path = written(folder / "model.pt", torch_archive(pickle.dumps(Reduced(os.system, shell_command()), protocol=2)))
    return lambda: torch.load(path, weights_only=False)


@hostile(f"control: {GROUP}", "an archive that is trusted by name runs its code", tells="executed", names="")
def _(folder):
    content = torch_archive(pickle.dumps({"0.weight": Reduced(eval, python_code())}, protocol=2))
    action = reading(folder / "model.pt", content, factory=make_mlp, allow_pickle=True)

    def trusting():
        import contextlib

        from cp_compress.base.errors import ArtifactError

        with contextlib.suppress(ArtifactError):  # what ran gave no tensor
            action()

    return trusting
