"""State dicts in `.pt` files that lie about their tensors, do not fit, or bend what is made of them."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict

from hostile_payloads import Reduced, archive, damage, make_mlp, members_of, observe_logits, reading, written
from hostile_registry import add_case, hostile

from model_cases.pickles import torch_archive

GROUP = "state dicts"


def saved(content, **options) -> bytes:
    """Return the file that `torch.save` writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def state() -> dict:
    """Return the state dict of the good network."""
    return dict(make_mlp(1).state_dict())


def _changed(change) -> bytes:
    content = state()
    change(content)
    return saved(content)


def _pickled(function, *arguments, storage: bytes = b"\0" * 384) -> bytes:
    """Return an archive whose entry "0.weight" is what a function makes of a float storage of 96 numbers."""
    return _packed({"0.weight": Reduced(function, *arguments)}, storage)


def _packed(content, storage: bytes = b"\0" * 384) -> bytes:
    import torch

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 96) if value == "STORAGE" else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
    return torch_archive(buffer.getvalue(), _0=storage)


def _rebuilt(offset, size, stride, **options) -> bytes:
    from torch._utils import _rebuild_tensor_v2

    return _pickled(_rebuild_tensor_v2, "STORAGE", offset, size, stride, False, OrderedDict(), **options)


def _with_attributes(**attributes) -> bytes:
    import torch
    from torch._tensor import _rebuild_from_type_v2
    from torch._utils import _rebuild_tensor_v2

    arguments = ("STORAGE", 0, (16, 6), (6, 1), False, OrderedDict())
    bent = Reduced(_rebuild_from_type_v2, _rebuild_tensor_v2, torch.Tensor, arguments, attributes)
    plain = {
        name: Reduced(_rebuild_tensor_v2, "STORAGE", 0, tuple(value.shape), value.stride(), False, OrderedDict())
        for name, value in state().items()
    }
    return _packed(plain | {"0.weight": bent})


class _Bent(OrderedDict):
    """A state dict that is pickled with attributes in the place of its own methods."""

    def __init__(self, content, attributes):
        super().__init__(content)
        self.attributes = attributes

    def __reduce__(self):
        return OrderedDict, (), self.attributes, None, iter(dict.items(self))


def _bent(**attributes) -> bytes:
    return torch_archive(pickle.dumps(_Bent({"0.weight": 1}, attributes), protocol=2))


def _deep(levels: int) -> bytes:
    return torch_archive(b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b".")


def _legacy_of(count: int) -> bytes:
    """Return a legacy file whose storage would have so many numbers, of which none are there."""
    import torch
    from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "7", "cpu", count, None) if value == "STORAGE" else None

    from torch._utils import _rebuild_tensor_v2

    buffer = io.BytesIO()
    system = {"protocol_version": PROTOCOL_VERSION, "little_endian": True, "type_sizes": {}}
    for value in (MAGIC_NUMBER, PROTOCOL_VERSION, system):
        pickle.dump(value, buffer, protocol=2)
    value = Reduced(_rebuild_tensor_v2, "STORAGE", 0, (count,), (1,), False, OrderedDict())
    Pickler(buffer, protocol=2).dump({"0.weight": value})
    pickle.dump(["7"], buffer, protocol=2)
    return buffer.getvalue() + count.to_bytes(8, "little")


_FILES = {
    "a storage of 2^40 numbers in a small file": (lambda: _legacy_of(1 << 40), "reading it failed"),
    "a storage of 2^62 numbers in a small file": (lambda: _legacy_of(1 << 62), "reading it failed"),
    "a view that reaches beyond its storage": (lambda: _rebuilt(0, (16, 60), (60, 1)), "reading it failed"),
    "a view at a negative offset": (lambda: _rebuilt(-8, (16, 6), (6, 1)), "reading it failed"),
    "a view of negative sizes": (lambda: _rebuilt(0, (-16, 6), (6, 1)), "reading it failed"),
    "a view of negative strides": (lambda: _rebuilt(90, (16, 6), (-6, 1)), "reading it failed"),
    "a view whose size overflows": (lambda: _rebuilt(0, (1 << 62, 1 << 62), (1, 1)), "reading it failed"),
    "sizes of 2^100": (lambda: _rebuilt(0, (1 << 100, 6), (6, 1)), "reading it failed"),
    "a tensor of 10^15 numbers that are one": (lambda: _rebuilt(0, (10**15, 6), (0, 0)), "does not fit|has shape"),
    "a storage that is shorter than it says": (
        lambda: _rebuilt(0, (16, 6), (6, 1), storage=b"\0" * 8),
        "reading it failed|does not fit the factory",  # torch 2.9 believes it
    ),
    "a tensor with its own detach": (lambda: _with_attributes(detach=1), "filling the model with it failed"),
    "a tensor with its own shape": (lambda: _with_attributes(shape=(1,)), "reading it failed"),
    "a dict with its own items": (lambda: _bent(items=1), "is not a tensor"),
    "a dict with its own keys": (lambda: _bent(keys=1, get=2, values=3), "is not a tensor"),
    "lists within lists, 100 000 deep": (lambda: _deep(100_000), "holds a list"),
    "a list": (lambda: saved(list(state().values())), "expected a state dict"),
    "a number": (lambda: saved(7), "expected a state dict"),
    "nothing": (lambda: saved(None), "expected a state dict"),
    "a checkpoint without a key": (lambda: saved({"state": state(), "epoch": 3}), "key="),
    "names that are numbers": (lambda: saved({1: state()["0.weight"]}), "key="),
    "a tensor that is missing": (lambda: _changed(lambda one: one.pop("2.bias")), "1 tensors of the model are not"),
    "tensors under other names": (
        lambda: saved({f"module.{name}": value for name, value in state().items()}),
        "4 tensors of the file are not in the model",
    ),
    "a tensor too many": (lambda: _changed(lambda one: one.update(head=one["2.bias"])), "not in the model .head"),
    "a name with control characters": (
        lambda: _changed(lambda one: one.update({"\x1b[2J\nhead": one["2.bias"]})),
        "not in the model",
    ),
    "a transposed weight": (lambda: _changed(lambda one: one.update({"0.weight": one["0.weight"].T})), "has shape"),
    "another dtype": (lambda: _changed(lambda one: one.update({"0.weight": one["0.weight"].half()})), "float16"),
    "integers for numbers": (lambda: _changed(lambda one: one.update({"0.weight": one["0.weight"].int()})), "int32"),
    "complex numbers": (lambda: _changed(lambda one: one.update({"0.weight": one["0.weight"] * 1j})), "complex64"),
    "a sparse tensor": (
        lambda: _changed(lambda one: one.update({"0.weight": one["0.weight"].to_sparse()})),
        "expected a dense one",
    ),
    "a tensor without content": (
        lambda: _changed(lambda one: one.update({"0.weight": one["0.weight"].to("meta")})),
        "expected a dense one|on meta",
    ),
    "a text for a tensor": (lambda: _changed(lambda one: one.update({"0.weight": "ones"})), "0.weight is not a tensor"),
    "half a file": (lambda: saved(state())[:700], "not a complete zip archive|damaged|failed"),
    "a file without its end": (lambda: saved(state())[:-1], "not a complete zip archive|damaged|failed"),
    "half a legacy file": (lambda: saved(state(), _use_new_zipfile_serialization=False)[:300], "failed|refused"),
    "an archive without its pickle": (lambda: _without("data.pkl"), "unsupported kind"),
    "an archive without a storage": (lambda: _without("data/0"), "failed"),
    "an unknown byte order": (lambda: _replaced("byteorder", b"middle"), "reading it failed"),
    "a damaged storage": (lambda: _flipped("data/0"), "its checksum is wrong"),
    "an empty pickle": (lambda: _replaced("data.pkl", b""), "failed|refused"),
    "a pickle that ends early": (lambda: _replaced("data.pkl", b"\x80\x02}q\0("), "failed|refused"),
    "a pickle of random bytes": (lambda: _replaced("data.pkl", bytes(range(1, 255))), "failed|refused"),
    "a pickle with an unknown opcode": (lambda: _replaced("data.pkl", b"\x80\x02\xff."), "failed|refused"),
    "a pickle that takes from an empty stack": (lambda: _replaced("data.pkl", b"\x80\x020."), "failed|refused"),
    "a pickle that asks for a memo that is not there": (
        lambda: _replaced("data.pkl", b"\x80\x02h\x07."),
        "failed|refused",
    ),
}


def _inner(content: bytes) -> dict[str, bytes]:
    return {name.partition("/")[2]: member for name, member in members_of(content).items()}


def _without(name: str) -> bytes:
    members = _inner(saved(state()))
    del members[name]
    return archive({f"model/{each}": content for each, content in members.items()})


def _replaced(name: str, content: bytes) -> bytes:
    members = _inner(saved(state())) | {name: content}
    return archive({f"model/{each}": member for each, member in members.items()})


def _flipped(name: str) -> bytes:
    """Return an archive with a changed byte in a member, whose checksum is the old one."""
    content = saved(state())
    return damage(content, content.index(_inner(content)[name]) + 5)


for _name, (_make, _tells) in _FILES.items():
    add_case(
        GROUP,
        _name,
        lambda folder, make=_make: reading(folder / "model.pt", make(), factory=make_mlp),
        tells=_tells,
        names="model.pt",
    )


@hostile(GROUP, "a key that is not there", tells="no entry 'ema'; it holds 'state'", names="model.pt")
def _(folder):
    return reading(folder / "model.pt", saved({"state": state()}), factory=make_mlp, key="ema")


@hostile(GROUP, "a larger file than is allowed", tells="at most 100", names="model.pt")
def _(folder):
    return reading(folder / "model.pt", saved(state()), factory=make_mlp, max_bytes=100)


@hostile(GROUP, "weights without an architecture", tells="give the factory", names="factory")
def _(folder):
    return reading(folder / "model.pt", saved(state()))


@hostile(GROUP, "weights that are no numbers", tells="nan|NaN|finite", names="logits")
def _(folder):
    import torch

    action = reading(folder / "model.pt", _changed(lambda one: one["2.bias"].fill_(torch.nan)), factory=make_mlp)
    return lambda: observe_logits(action())


@hostile(GROUP, "weights that overflow", tells="nan|NaN|inf|finite", names="logits")
def _(folder):
    import torch

    action = reading(folder / "model.pt", _changed(lambda one: one["2.weight"].fill_(torch.inf)), factory=make_mlp)
    return lambda: observe_logits(action())


@hostile(f"control: {GROUP}", "the good file is read", tells="", names="")
def _(folder):
    written(folder / "note", "")
    return reading(folder / "model.pt", saved(state()), factory=make_mlp)
