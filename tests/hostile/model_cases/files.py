"""What stands in the place of a model's file: folders, FIFOs, devices, links, and files of other kinds."""

from __future__ import annotations

from hostile_payloads import make_mlp, reading, written
from hostile_registry import add_case, hostile

GROUP = "files"


@hostile(GROUP, "a folder in the place of the file", tells="folder", names="model.pt")
def _(folder):
    from cp_compress.artifacts import load_torch

    (folder / "model.pt").mkdir()
    return lambda: load_torch(folder / "model.pt", make_mlp)


@hostile(GROUP, "a FIFO that nobody writes to", tells="not a regular file", names="model.pt")
def _(folder):
    import os

    from cp_compress.artifacts import read_artifact

    os.mkfifo(folder / "model.pt")
    return lambda: read_artifact(folder / "model.pt", factory=make_mlp)


@hostile(GROUP, "a link to an endless device", tells="not a regular file", names="model.pt")
def _(folder):
    from cp_compress.artifacts import read_artifact

    (folder / "model.pt").symlink_to("/dev/zero")
    return lambda: read_artifact(folder / "model.pt", factory=make_mlp)


@hostile(GROUP, "a link to itself", tells="cannot be opened", names="model.pt")
def _(folder):
    from cp_compress.artifacts import read_artifact

    (folder / "model.pt").symlink_to(folder / "model.pt")
    return lambda: read_artifact(folder / "model.pt", factory=make_mlp)


@hostile(GROUP, "an empty file", tells="is empty", names="model.pt")
def _(folder):
    return reading(folder / "model.pt", b"")


@hostile(GROUP, "a path with a zero byte", tells="cannot be opened", names="model")
def _(folder):
    from cp_compress.artifacts import read_artifact

    return lambda: read_artifact(f"{folder}/model\0.pt")


for _name, _head, _told in (
    ("a Linux library", b"\x7fELF\x02\x01\x01", "ProgramModel"),
    ("a Windows program", b"MZ\x90\0", "ProgramModel"),
    ("a script", b"#!/bin/sh\ntouch canary\n", "ProgramModel"),
    ("a gzip file", b"\x1f\x8b\x08", "unpack it first"),
    ("an HDF5 file", b"\x89HDF\r\n\x1a\n", "HDF5"),
    ("random bytes", bytes(range(200, 256)), "not a supported kind"),
):
    add_case(
        GROUP,
        f"{_name} called model.pt",
        lambda folder, head=_head: reading(folder / "model.pt", head + b"\0" * 600, factory=make_mlp),
        tells=_told,
        names="model.pt",
    )


@hostile(f"control: {GROUP}", "a link to a good file is followed", tells="", names="")
def _(folder):
    from cp_compress.artifacts import read_artifact
    from model_cases.torch import saved, state

    written(folder / "model.pt", saved(state()))
    (folder / "link.pt").symlink_to("model.pt")
    return lambda: read_artifact(folder / "link.pt", factory=make_mlp)
