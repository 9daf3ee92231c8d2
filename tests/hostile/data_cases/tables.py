"""Other files that gates and searches read: metadata, saved divergences, results, states and checkpoints."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
from gate_cases.baselines import gate
from hostile_payloads import Reduced, archive, shell_command, written
from hostile_registry import add_case, hostile

from data_cases.arrays import npy, with_header

GROUP = "other files"


def _metadata(folder: Path, content: bytes | str):
    from cp_compress.inputs.metadata import read_metadata

    path = written(folder / "rows.csv", content)
    return lambda: read_metadata(path, 3)


_ROWS = "name,time\na,day\nb,night\nc,day\n"
_TABLES = {
    "an empty table": ("", "needs a header"),
    "a header alone": ("name,time\n", "has 0 rows for 3 examples"),
    "a row too few": (_ROWS[:-6], "has 2 rows for 3 examples"),
    "a row too many": (_ROWS + "d,day\n", "has 4 rows for 3 examples"),
    "a row of three columns": (_ROWS.replace("b,night", "b,night,x"), "row 3 does not have the 2 columns"),
    "a column twice": (_ROWS.replace("time", "name"), "distinct column names"),
    "a column without a name": (_ROWS.replace("time", ""), "distinct column names"),
    "columns of 100 000 letters": ("k" * 100_000 + "," + "k" * 100_000 + "\n", "distinct column names"),
    "a quote that stays open": (_ROWS.replace("night", '"night'), "not a CSV file"),
    "a field of 10^6 letters": (_ROWS.replace("night", "n" * 10**6), "not a CSV file"),
    "bytes that are no UTF-8": (_ROWS.encode() + b"\xff,\xfe\n", "not a CSV file"),
    "another encoding": (_ROWS.encode("utf-16"), "not a CSV file"),
    "zeros": (bytes(100), "not a CSV file|rows|header"),
}
for _name, (_text, _tells) in _TABLES.items():
    add_case(
        GROUP,
        f"metadata: {_name}",
        lambda folder, text=_text: _metadata(folder, text),
        tells=_tells,
        names="rows.csv",
    )


@hostile(GROUP, "metadata: a FIFO", tells="not a regular file", names="rows.csv")
def _(folder):
    from cp_compress.inputs.metadata import read_metadata

    os.mkfifo(folder / "rows.csv")
    return lambda: read_metadata(folder / "rows.csv", 3)


def _arrays(**changes) -> bytes:
    from cp_compress.fidelity.divergence import files as divergence_files

    header = {"format": divergence_files._FORMAT, "scale": 1, "dtype": "float32"}
    whole = np.zeros(2, np.int64)
    arrays = {
        "header": npy(np.array(json.dumps(header))),
        "inputs": npy(np.zeros((2, 6), np.float32)),
        "examples": npy(whole),
        "labels": npy(whole),
        "reference_classes": npy(whole),
        "candidate_classes": npy(whole),
    }
    arrays |= {name: content for name, content in changes.items() if content is not None}
    kept = {name: content for name, content in arrays.items() if changes.get(name, b"") is not None}
    return archive({f"{name}.npy": content for name, content in kept.items()})


def _divergence(folder: Path, content: bytes):
    from cp_compress.fidelity.divergence.files import load_divergence

    path = written(folder / "saved.npz", content)
    return lambda: load_divergence(path)


def _objects() -> bytes:
    return npy(np.array([Reduced(os.system, shell_command())] * 2, dtype=object), allow_pickle=True)


def _described(shape: str) -> bytes:
    return with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}", bytes(48))


_DIVERGENCES = {
    "no archive": lambda: b"inputs",
    "half an archive": lambda: _arrays()[:400],
    "no inputs": lambda: _arrays(inputs=None),
    "no header": lambda: _arrays(header=None),
    "a header of another format": lambda: _arrays(header=npy(np.array('{"format": "x"}'))),
    "a header that is no JSON": lambda: _arrays(header=npy(np.array("{'a': 1}"))),
    "a header of 100 000 brackets": lambda: _arrays(header=npy(np.array("[" * 100_000))),
    "a header that is a list": lambda: _arrays(header=npy(np.array("[]"))),
    "a header of objects": lambda: _arrays(header=_objects()),
    "inputs of objects": lambda: _arrays(inputs=_objects()),
    "inputs of 10^15 numbers": lambda: _arrays(inputs=_described("(1000000000, 1000000)")),
    "inputs of a shape that overflows": lambda: _arrays(inputs=_described("(4611686018427387904, 8)")),
    "inputs of a negative shape": lambda: _arrays(inputs=_described("(-2, -6)")),
    "inputs cut off": lambda: _arrays(inputs=npy(np.zeros((2, 6), np.float32))[:-4]),
    "inputs of texts": lambda: _arrays(inputs=npy(np.full((2, 6), "x"))),
    "more classes than inputs": lambda: _arrays(candidate_classes=npy(np.zeros(3, np.int64))),
    "classes that are fractions": lambda: _arrays(candidate_classes=npy(np.zeros(2))),
}
for _name, _make in _DIVERGENCES.items():
    add_case(
        GROUP,
        f"a saved divergence: {_name}",
        lambda folder, make=_make: _divergence(folder, make()),
        tells="is not a saved divergence, or is damaged: .",
        names="saved.npz",
    )


def _state(folder: Path, content: bytes | str):
    from cp_compress.search.state import State

    path = written(folder / "search.json", content)
    return lambda: State(path, {"space": "x"})


_STATES = {
    "an empty file": "",
    "a list": "[]",
    "no trials": '{"version": 1, "search": {"space": "x"}}',
    "trials that are numbers": '{"version": 1, "search": {"space": "x"}, "trials": [1]}',
    "100 000 brackets": "[" * 100_000,
    "bytes that are no text": b"\xff\xfe\xfd",
    "a search twice": '{"version": 1, "search": {}, "search": {}, "trials": []}',
    "a search that is a number": '{"version": 1, "search": 7, "trials": []}',
    "another version": '{"version": 99, "search": {}, "trials": []}',
}
for _name, _text in _STATES.items():
    add_case(
        GROUP,
        f"the state of a search: {_name}",
        lambda folder, text=_text: _state(folder, text),
        tells="is not the state of a search|format version 99",
        names="search.json",
    )


def _checkpoint(folder: Path, content: bytes):
    import torch

    from cp_compress.training.checkpoints import read_checkpoint

    path = written(folder / "training.pt", content)
    return lambda: read_checkpoint(path, {"epochs": "3"}, torch.device("cpu"))


def _saved(content) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


_CHECKPOINTS = {
    "a pickle that runs code": lambda: pickle.dumps(Reduced(os.system, shell_command()), protocol=2),
    "half a file": lambda: _saved({"identity": {}, "state": {}})[:200],
    "an empty file": lambda: b"",
    "a list": lambda: _saved([1, 2]),
    "no state": lambda: _saved({"identity": {"epochs": "3"}}),
    "an identity that is a number": lambda: _saved({"identity": 7, "state": {}}),
    "a run with other settings": lambda: _saved({"identity": {"epochs": "4"}, "state": {}}),
}
for _name, _make in _CHECKPOINTS.items():
    add_case(
        GROUP,
        f"a checkpoint: {_name}",
        lambda folder, make=_make: _checkpoint(folder, make()),
        tells="cannot be read as a checkpoint: .|a run with another epochs",
        names="training.pt",
    )

_RESULTS = {
    "an empty file": ("", "Expecting value"),
    "no digests": ("{}", "it has no 'search_digests'"),
    "100 000 brackets": ("[" * 100_000, "nested too deeply"),
    "digests that are a number": ('{"search_digests": 7}', "not a JSON result of a search: ."),
    "bytes that are no text": (b"\xff\xfe", "not a JSON result of a search: ."),
}
for _name, (_text, _tells) in _RESULTS.items():

    def _build(folder, text=_text):
        action = gate(folder)
        written(folder / "found.json", text)
        written(folder / "pytest.ini", "[pytest]\ncp_search_results = found.json\n")
        return action

    add_case(GROUP, f"the results of a search: {_name}", _build, tells=_tells, names="found.json")


@hostile(f"control: {GROUP}", "a good table is read", tells="", names="")
def _(folder):
    return _metadata(folder, _ROWS)


@hostile(f"control: {GROUP}", "a good divergence is read", tells="", names="")
def _(folder):
    return _divergence(folder, _arrays())
