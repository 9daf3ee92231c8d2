"""Arrays in `.npz` files: objects, headers that lie, and arrays that are no examples."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
from hostile_payloads import Reduced, archive, make_data, members_of, python_code, reading, shell_command, written
from hostile_registry import add_case, hostile

from data_cases.archives import examples, read_npz

GROUP = "arrays"


def npy(array, allow_pickle: bool = False) -> bytes:
    """Return the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def with_header(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Return a `.npy` file with any header at all."""
    text = header.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + content


def _described(shape: str = "(8, 6)", dtype: str = "'<f4'", order: str = "False", content: bytes = bytes(192)) -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}"
    return with_header(header, content)


def _with(**arrays) -> bytes:
    """Return the good file with some arrays replaced, by arrays, by bytes, or by nothing."""
    members = members_of(examples())
    for name, array in arrays.items():
        members.pop(f"{name}.npy", None)
        if array is not None:
            members[f"{name}.npy"] = array if isinstance(array, bytes) else npy(array)
    return archive(members)


def _objects() -> bytes:
    return npy(np.array([Reduced(os.system, shell_command())] * 8, dtype=object), allow_pickle=True)


def _structured() -> bytes:
    return npy(np.zeros(8, [("a", "O"), ("b", "<i8")]), allow_pickle=True)


_INPUTS, _LABELS = make_data()[0].numpy(), make_data()[1].numpy()
_FILES = {
    "labels that are pickled objects": (lambda: _with(labels=_objects()), "no pickled objects"),
    "inputs that are pickled objects": (lambda: _with(inputs=_objects()), "no pickled objects"),
    "names of classes that are pickled objects": (lambda: _with(classes=_objects()), "no pickled objects"),
    "fields that are pickled objects": (lambda: _with(labels=_structured()), "no pickled objects"),
    "a header that calls a function": (lambda: _with(inputs=with_header(python_code())), "not a .npy array"),
    "a shape that calls a function": (lambda: _with(inputs=_described(shape=python_code())), "not a .npy array"),
    "a dtype that calls a function": (lambda: _with(inputs=_described(dtype=python_code())), "not a .npy array"),
    "a shape of 10^15 numbers": (lambda: _with(inputs=_described("(10**9, 10**6)")), "not a .npy array"),
    "a shape of 10^15 written out": (lambda: _with(inputs=_described("(1000000000, 1000000)")), "states 4,000,000,0"),
    "a shape that overflows 64 bits": (
        lambda: _with(inputs=_described("(4611686018427387904, 4)")),
        "states 73,786,976,294,838,206,464 bytes",
    ),
    "a shape that overflows to nothing": (
        lambda: _with(inputs=_described("(0, 4611686018427387904)", content=b"")),
        "shape",
    ),
    "a negative shape": (lambda: _with(inputs=_described("(-8, -6)")), "shape"),
    "a shape of truth values": (
        lambda: _with(inputs=_described("(True, True)", content=bytes(4))),
        "inputs: has shape .True, True.",
    ),
    "a shape of fractions": (lambda: _with(inputs=_described("(8.0, 6.0)")), "not a .npy array"),
    "a shape that is a text": (lambda: _with(inputs=_described("'86'")), "not a .npy array"),
    "a shape of 100 dimensions": (
        lambda: _with(inputs=_described(f"({'1, ' * 100})", content=bytes(4))),
        "inputs: has shape",
    ),
    "an order that is neither": (lambda: _with(inputs=_described(order="7")), "not a .npy array"),
    "a dtype that is not there": (lambda: _with(inputs=_described(dtype="'<f3'")), "not a .npy array"),
    "dates for inputs": (lambda: _with(inputs=np.zeros((8, 6), "M8[s]")), "expected numbers"),
    "raw bytes for inputs": (lambda: _with(inputs=np.zeros((8, 6), "V4")), "expected numbers"),
    "texts for inputs": (lambda: _with(inputs=np.full((8, 6), "x")), "expected numbers"),
    "numbers for names of classes": (lambda: _with(classes=np.arange(3)), "expected texts"),
    "a header of 60 000 brackets": (lambda: _with(inputs=with_header("(" * 60_000)), "is large"),
    "a header that ends nowhere": (lambda: _with(inputs=b"\x93NUMPY\x01\x00\xff\xff{"), "not a .npy array"),
    "a header of 4 GiB": (lambda: _with(inputs=b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"), "not a .npy array"),
    "a version that is not there": (lambda: _with(inputs=b"\x93NUMPY\x09\x00" + bytes(100)), "version .9, 0."),
    "another mark": (lambda: _with(inputs=b"\x93NUMPI\x01\x00" + bytes(100)), "not a .npy array"),
    "an array cut off": (lambda: _with(inputs=npy(_INPUTS)[:-1]), "191 are present"),
    "an array with a byte too many": (lambda: _with(inputs=npy(_INPUTS) + b"\0"), "193 are present"),
    "an empty array file": (lambda: _with(inputs=b""), "not a .npy array"),
    "no inputs": (lambda: _with(inputs=None), "no array 'inputs'; it holds labels"),
    "fewer labels than inputs": (lambda: _with(labels=_LABELS[:-1]), r"labels of shape \(7,\)"),
    "labels of two dimensions": (lambda: _with(labels=_LABELS[:, None]), "expected .n, ....."),
    "inputs of one dimension": (lambda: _with(inputs=_INPUTS[:, 0]), "expected .n, ....."),
    "no examples": (lambda: _with(inputs=_INPUTS[:0], labels=_LABELS[:0]), "at least one example"),
    "labels between classes": (lambda: _with(labels=_LABELS + 0.5), "labels"),
    "labels that are no numbers": (lambda: _with(labels=np.full(8, np.nan)), "labels"),
    "long doubles": (lambda: _with(inputs=_INPUTS.astype(np.longdouble)), "tensors|numbers|128"),
}
for _name, (_make, _tells) in _FILES.items():
    add_case(GROUP, _name, lambda folder, make=_make: read_npz(folder, make()), tells=_tells, names="data.npz")


@hostile(GROUP, "more examples than are allowed", tells="has 8 examples; at most 5", names="data.npz")
def _(folder):
    return read_npz(folder, examples(), max_examples=5)


@hostile(GROUP, "inputs that are no numbers", tells="NaN", names="logits")
def _(folder):
    from hostile_payloads import make_mlp

    from cp_compress.fidelity import observe

    action = read_npz(folder, _with(inputs=np.full((8, 6), np.nan, np.float32)))
    return lambda: observe(make_mlp(), action()).logits


def _compared(folder, labels):
    from hostile_payloads import make_mlp

    from cp_compress.fidelity import compare_predictions, observe

    action = read_npz(folder, _with(labels=labels))

    def compare():
        data = action()
        return compare_predictions(observe(make_mlp(1), data), observe(make_mlp(), data))

    return compare


for _name, _labels in (
    ("labels beyond the classes", _LABELS + 5),
    ("negative labels", _LABELS - 3),
    ("labels beyond 63 bits", np.full(8, 2**63, np.uint64)),
):
    add_case(
        GROUP,
        _name,
        lambda folder, labels=_labels: _compared(folder, labels),
        tells=r"lie outside the model's 3 classes|must be below 2\*\*63",
        names="labels",
    )


@hostile(GROUP, "data in the place of a model", tells="data and not a model", names="model.npz")
def _(folder):
    return reading(folder / "model.npz", examples())


@hostile(GROUP, "a single array in the place of a model", tells="single .npy array", names="model.npy")
def _(folder):
    return reading(folder / "model.npy", npy(_INPUTS))


@hostile(GROUP, "a text in the place of the file", tells="not a .npz file", names="data.npz")
def _(folder):
    return read_npz(folder, b"inputs,labels\n1,2\n")


@hostile(GROUP, "no file", tells="no such file", names="data.npz")
def _(folder):
    from cp_compress.artifacts import read_examples

    return lambda: read_examples(folder / "data.npz")


@hostile(GROUP, "a link that leads nowhere", tells="no such file", names="data.npz")
def _(folder):
    from cp_compress.artifacts import read_examples

    (folder / "data.npz").symlink_to(folder / "nowhere")
    return lambda: read_examples(folder / "data.npz")


@hostile(
    f"control: {GROUP}", "the array of objects runs its code where NumPy is let unpickle it", tells="executed", names=""
)
def _(folder):
    path = written(folder / "objects.npy", _objects())
    return lambda: np.load(path, allow_pickle=True)
