"""safetensors files whose headers lie, or whose tensors do not fit."""

from __future__ import annotations

import json

from hostile_payloads import damage, make_mlp, observe_logits, reading
from hostile_registry import add_case, hostile

GROUP = "safetensors"


def saved(tensors=None, metadata=None) -> bytes:
    """Return a safetensors file, of the good network unless tensors are given."""
    from safetensors.torch import save

    return save(dict(make_mlp(1).state_dict()) if tensors is None else tensors, metadata)


def packed(header, content: bytes = b"", length: int | None = None) -> bytes:
    """Return a file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + content


def _edited(change) -> bytes:
    """Return the good file after a change of its header."""
    content = saved()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    return packed(header, content[end:])


def _at(name: str, **fields):
    return lambda: _edited(lambda header: header[name].update(fields))


def _tensors(**changes) -> bytes:
    tensors = dict(make_mlp(1).state_dict())
    for name, change in changes.items():
        name = name.replace("_", ".")
        made = change(tensors.pop(name) if name in tensors else None)
        if made is not None:
            tensors[name] = made.contiguous()
    return saved(tensors)


_TEXT = json.dumps({"0.weight": {"dtype": "F32", "shape": [16, 6], "data_offsets": [0, 384]}})
_DAMAGED = "safetensors"
_FILES = {
    "a header longer than the file": (lambda: packed(_TEXT.encode(), length=5000), "header would have 5,000 bytes"),
    "a header of 2^63 bytes": (lambda: packed(_TEXT.encode(), length=1 << 63), "header would have 9,223,372,036"),
    "a header of 2^64 - 1 bytes": (lambda: packed(_TEXT.encode(), length=(1 << 64) - 1), "header would have 18,446"),
    "a header cut in the middle": (lambda: packed(_TEXT.encode(), bytes(384), length=40), "not valid JSON"),
    "a header of no bytes": (lambda: packed(b"{", length=0), "not valid JSON"),
    "a header that is a list": (lambda: packed(b'{"a"]', bytes(384)), "not valid JSON"),
    "a header that is not UTF-8": (lambda: packed(b'{"\xff\xfe": 1}', bytes(384)), "not valid JSON"),
    "a header with bytes of zero": (lambda: packed(b"{" + bytes(60), bytes(384)), "not valid JSON"),
    "a header of 50 000 brackets": (lambda: packed(b"{" + b'"a":{' * 50_000, bytes(384)), "not valid JSON"),
    "a header of NaN": (lambda: packed(_TEXT.replace("384", "NaN").encode(), bytes(384)), _DAMAGED),
    "a number of 5000 digits": (lambda: packed(_TEXT.replace("384", "9" * 5000).encode(), bytes(384)), _DAMAGED),
    "a tensor twice": (
        lambda: packed((_TEXT[:-1] + "," + _TEXT[1:]).encode(), bytes(384)),
        "it has the key '0.weight' twice",
    ),
    "offsets below zero": (_at("0.weight", data_offsets=[-384, 0]), _DAMAGED),
    "offsets beyond the file": (_at("0.weight", data_offsets=[0, 10**9]), _DAMAGED),
    "offsets beyond 64 bits": (_at("0.weight", data_offsets=[0, 1 << 70]), _DAMAGED),
    "offsets near the end of 64 bits": (_at("0.weight", data_offsets=[(1 << 64) - 384, 1 << 64]), _DAMAGED),
    "offsets the wrong way round": (_at("0.weight", data_offsets=[384, 0]), _DAMAGED),
    "offsets that are fractions": (_at("0.weight", data_offsets=[0.5, 384.5]), _DAMAGED),
    "offsets that are one number": (_at("0.weight", data_offsets=384), _DAMAGED),
    "two tensors in one place": (_at("2.weight", data_offsets=[0, 192]), _DAMAGED),
    "a shape of 10^15 numbers": (_at("0.weight", shape=[10**9, 10**6]), _DAMAGED),
    "a shape that overflows to the right size": (_at("0.weight", shape=[1 << 63, 2, 96]), _DAMAGED),
    "a shape below zero": (_at("0.weight", shape=[-16, -6]), _DAMAGED),
    "a dtype that is not there": (_at("0.weight", dtype="F33"), _DAMAGED),
    "another dtype of the same size": (_at("0.weight", dtype="I32"), "torch.int32 in the file"),
    "an entry that is no table": (lambda: _edited(lambda header: header.update(extra=7)), _DAMAGED),
    "metadata that are no texts": (lambda: _edited(lambda header: header.update(__metadata__={"a": [1]})), _DAMAGED),
    "a tensor whose bytes are missing": (lambda: saved()[:-4], _DAMAGED),
    "bytes after the last tensor": (lambda: saved() + b"\0" * 4, _DAMAGED),
    "seven bytes": (lambda: b"{" * 7, "not a supported kind"),
    "a flipped bit in the length": (lambda: damage(saved(), 3, 4), "header would have"),
    "a flipped bit in a dtype": (lambda: damage(saved(), saved().index(b"F32"), 1), _DAMAGED),
    "a flipped bit in a bracket": (lambda: damage(saved(), saved().index(b"]}"), 0), "not valid JSON"),
    "a tensor that is missing": (lambda: _tensors(**{"2_bias": lambda one: None}), "not in the file .2.bias"),
    "a tensor too many": (lambda: saved({"x": make_mlp()[2].bias.detach()} | dict(make_mlp().state_dict())), ".x."),
    "a transposed weight": (lambda: _tensors(**{"0_weight": lambda one: one.T}), "has shape .6, 16."),
    "half precision": (lambda: _tensors(**{"0_weight": lambda one: one.half()}), "torch.float16 in the file"),
    "no tensors": (lambda: saved({}), "4 tensors of the model are not in the file"),
}
for _name, (_make, _tells) in _FILES.items():
    add_case(
        GROUP,
        _name,
        lambda folder, make=_make: reading(folder / "model.safetensors", make(), factory=make_mlp),
        tells=_tells,
        names="model.safetensors",
    )


@hostile(GROUP, "a NaN among the weights", tells="NaN", names="logits")
def _(folder):
    import torch

    content = _tensors(**{"2_bias": lambda one: one.fill_(torch.nan)})
    action = reading(folder / "model.safetensors", content, factory=make_mlp)
    return lambda: observe_logits(action())


@hostile(GROUP, "a factory that is not there", tells="No module named", names="factory")
def _(folder):
    return reading(folder / "model.safetensors", saved(), factory="nowhere:make_model")


@hostile(GROUP, "a factory that gives no module", tells="made a dict", names="factory")
def _(folder):
    return reading(folder / "model.safetensors", saved(), factory=dict)


@hostile(GROUP, "an option of another kind of file", tells="does not take this argument", names="model.safetensors")
def _(folder):
    return reading(folder / "model.safetensors", saved(), factory=make_mlp, layers=True)


@hostile(f"control: {GROUP}", "the good file is read", tells="", names="")
def _(folder):
    return reading(folder / "model.safetensors", saved(), factory=make_mlp)
