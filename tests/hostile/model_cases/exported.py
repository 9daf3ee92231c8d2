"""`.pt2` archives whose programs, tables and members were changed."""

from __future__ import annotations

import io
import json
import os
import pickle
from functools import cache

from hostile_payloads import (
    Reduced,
    archive,
    damage,
    make_mlp,
    members_of,
    observe_logits,
    reading,
    shell_command,
)
from hostile_registry import add_case, hostile

GROUP = "exported programs"
_PROGRAM, _WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
_CODE, _RUNS = "it may run code", "which is refused"


@cache
def saved() -> bytes:
    """Return the archive of the good network, exported for 1 to 64 examples."""
    import torch

    sizes = ({0: torch.export.Dim("n", min=1, max=64)},)
    program = torch.export.export(make_mlp(1), (torch.zeros(4, 6),), dynamic_shapes=sizes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def with_members(**changes) -> bytes:
    """Return the archive with members replaced, or left out where they are None."""
    members = {name.partition("/")[2]: content for name, content in members_of(saved()).items()}
    members |= {name.replace("__", "/"): content for name, content in changes.items()}
    return archive({f"archive/{name}": content for name, content in members.items() if content is not None})


def edited(change, member: str = _PROGRAM) -> bytes:
    """Return the archive after a change of the JSON of one member."""
    members = {name.partition("/")[2]: content for name, content in members_of(saved()).items()}
    document = json.loads(members[member])
    made = change(document)
    text = made if isinstance(made, bytes) else json.dumps(document if made is None else made).encode()
    return with_members(**{member: text})


def _node(number: int = 0, **fields):
    return lambda: edited(lambda program: program["graph_module"]["graph"]["nodes"][number].update(fields))


def _size(text: str):
    """Return the archive with a text in the place of the batch size of the first input."""

    def change(program) -> None:
        values = program["graph_module"]["graph"]["tensor_values"]
        for name in ("input", "linear", "relu", "linear_1"):
            values[name]["sizes"][0]["as_expr"]["expr_str"] = text

    return lambda: edited(change)


def _graph(**fields):
    return lambda: edited(lambda program: program["graph_module"]["graph"].update(fields))


def _program(**fields):
    return lambda: edited(lambda program: program.update(fields))


def _weight(**fields):
    return lambda: edited(lambda table: table["config"]["0.weight"].update(fields), _WEIGHTS)


def _meta(**fields):
    return lambda: edited(lambda table: table["config"]["0.weight"]["tensor_meta"].update(fields), _WEIGHTS)


def _signature(change):
    return lambda: edited(lambda program: change(program["graph_module"]["signature"]))


def _structure(text: str):
    return lambda: edited(
        lambda program: program["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=text)
    )


def _pickled() -> bytes:
    return pickle.dumps(Reduced(os.system, shell_command()))


def _argument(value):
    return _node(inputs=[{"name": "input", "arg": value, "kind": 1}])


def _nested_power(levels: int) -> str:
    return "(" * levels + "9" + "**8)" * levels


_FILES = {
    "an operator that is a function of os": (_node(target="torch.os.system"), _CODE),
    "an operator below another": (_node(target="torch.ops.aten.os.system"), "refused|does not have"),
    "an operator of dunders": (_node(target="torch.ops.aten.__class__.__init__"), _RUNS),
    "an operator that loads libraries": (_node(target="torch.ops.load_library"), _CODE),
    "an operator that is eval": (_node(target="builtins.eval"), _CODE),
    "an operator that reads a file": (_node(target="torch.ops.aten.from_file.default"), _CODE),
    "an operator that is not there": (_node(target="torch.ops.aten.lineal.default"), "this torch does not have"),
    "an operator of another's library": (_node(target="torch.ops.evil.run.default"), _CODE),
    "an argument that is a call": (_argument({"as_string": "__import__('os')"}), _CODE),
    "an argument that is an object": (_argument({"as_custom_obj": {"name": "o", "class_fqn": "x.Y"}}), "is a pickle"),
    "an argument that is an operator": (_argument({"as_operator": "os.system"}), "other than a tensor"),
    "an argument of an unknown tensor": (_argument({"as_tensor": {"name": "nobody"}}), "failed"),
    "an argument that is its own result": (_argument({"as_tensor": {"name": "linear"}}), "failed"),
    "a name that is code": (_node(name="x=exit()"), _CODE),
    "a name that is a keyword": (_node(name="import"), _CODE),
    "a name of two lines": (_node(name="a\nimport os"), _CODE),
    "a tensor whose name is code": (_graph(inputs=[{"as_tensor": {"name": "x):\n import os\n(y"}}]), _CODE),
    "a size that calls a function": (_size("__import__('os').system('true')"), "has an expression"),
    "a size that exits": (_size("exit()"), "has an expression"),
    "a size of attributes": (_size("Symbol('s0').__class__.__mro__"), "has an expression"),
    "a size of a list": (_size("[s0 for s0 in (1,)][0]"), "has an expression"),
    "a size of a lambda": (_size("(lambda: 4)()"), "has an expression"),
    "a size with a power of 10^9": (_size("9**999999999"), "has an expression"),
    "a size with powers of powers": (_size(_nested_power(40)), "has an expression"),
    "a size with powers of powers, as calls": (_size("Pow(" * 40 + "9" + ", 8)" * 40), "has an expression"),
    "a size with a billion digits": (_size("Float(Rational(1, 3), 999999999)"), "has an expression"),
    "a size of 3000 brackets": (_size("(" * 900 + "4" + ")" * 900), "has an expression"),
    "a size of 10 000 letters": (_size("Symbol('s0')" * 900), "has an expression"),
    "a size below zero": (_size("-4"), "neither a number nor a multiple|failed|has an expression"),
    "a size that is a fraction": (_size("Symbol('s31', positive=True, integer=True)/2"), "neither a number nor|failed"),
    "a structure of a class": (
        _structure('[1, {"type": "os.system", "context": "[]", "children_spec": []}]'),
        "takes or returns a os.system",
    ),
    "a structure that is no JSON": (_structure("__import__('os')"), "structure of arguments"),
    "a structure without end": (_structure("[" * 50_000), "structure of arguments"),
    "no graph": (_program(graph_module=None), "without a graph"),
    "no signature": (lambda: edited(lambda program: program["graph_module"].update(signature=None)), "failed"),
    "an unknown version": (_program(schema_version={"major": 999, "minor": 0}), "failed"),
    "a program of 100 levels": (_graph(outputs=json.loads("[" * 100 + "]" * 100)), "levels deep"),
    "a number of 100 bits": (_argument({"as_int": 1 << 100}), "more than 64 bits"),
    "a program that is a list": (lambda: edited(lambda program: [program]), "is not a JSON object"),
    "a program that is no JSON": (lambda: edited(lambda program: b"{'a': 1}"), "not valid JSON"),
    "a program that says a key twice": (lambda: edited(lambda program: b'{"a": 1, "a": 2}'), "twice"),
    "a program cut off": (lambda: edited(lambda program: json.dumps(program).encode()[:900]), "not valid JSON"),
    "a graph of no nodes": (_graph(nodes=[]), "failed"),
    "a result that is not there": (_graph(outputs=[{"as_tensor": {"name": "nobody"}}]), "failed"),
    "no input": (_signature(lambda one: one["input_specs"].__delitem__(-1)), "failed|takes 0 inputs"),
    "no result": (_signature(lambda one: one["output_specs"].clear()), "failed|gives 0 outputs"),
    "a weight that is a pickle": (_weight(use_pickle=True), "stored as a pickle, which is refused"),
    "a weight that lies outside": (_weight(path_name="../../models/model.json"), "pickle, which is refused"),
    "a weight that is an absolute path": (_weight(path_name="/etc/passwd"), "pickle, which is refused"),
    "a weight that is not there": (_weight(path_name="weight_77"), "holds no data/weights/weight_77"),
    "a weight of 2^40 rows": (_meta(sizes=[{"as_int": 1 << 40}, {"as_int": 6}]), "reaches beyond"),
    "a weight of 10^14 numbers that are one": (
        _meta(sizes=[{"as_int": 10**7}, {"as_int": 10**7}], strides=[{"as_int": 0}, {"as_int": 0}]),
        "tensors of 400,000,000,000,",
    ),
    "a weight of sizes below zero": (_meta(sizes=[{"as_int": -16}, {"as_int": -6}]), "of the tensor"),
    "a weight at an offset below zero": (_meta(storage_offset={"as_int": -4}), "of the tensor"),
    "a weight at an offset beyond its end": (_meta(storage_offset={"as_int": 1 << 30}), "reaches beyond"),
    "a weight of a dtype that is not there": (_meta(dtype=99), "failed"),
    "a weight of another dtype": (_meta(dtype=8), "reaches beyond"),
    "a weight whose dtype is a text": (_meta(dtype="float"), "of the tensor"),
    "no weights": (lambda: edited(lambda table: table.update(config={}), _WEIGHTS), "failed"),
    "weights that are a list": (lambda: edited(lambda table: table.update(config=[]), _WEIGHTS), "lists no tensors"),
    "a compiled library": (lambda: with_members(**{"data__aotinductor__model.so": b"\x7fELF"}), "holds compiled code"),
    "code of Python": (lambda: with_members(**{"code__model.py": b"import os"}), "holds compiled code"),
    "two programs": (lambda: with_members(**{"models__other.json": b"{}"}), "holds 2 programs"),
    "no program": (lambda: with_members(**{_PROGRAM: None}), "holds 0 programs"),
    "no table of weights": (lambda: with_members(**{_WEIGHTS: None}), "holds no data/weights"),
    "a cut weight": (lambda: with_members(**{"data/weights/weight_0": b"\0" * 8}), "reaches beyond"),
    "a flipped bit in a weight": (lambda: damage(saved(), saved().index(b"weight_0") + 100), "damaged"),
    "half an archive": (lambda: saved()[:4000], "not a complete zip archive"),
    "an unknown format": (lambda: with_members(archive_format=b"pt9"), "failed"),
}
for _name, (_make, _tells) in _FILES.items():
    add_case(
        GROUP,
        _name,
        lambda folder, make=_make: reading(folder / "model.pt2", make()),
        tells=_tells,
        names="model.pt2",
    )


@hostile(GROUP, "a result of 4 TB", tells="more memory than is available", names="the model")
def _(folder):
    inputs = [
        {"name": "self", "arg": {"as_tensor": {"name": "input"}}, "kind": 1},
        {"name": "repeats", "arg": {"as_ints": [1 << 20, 1 << 20]}, "kind": 1},
    ]
    content = edited(
        lambda program: program["graph_module"]["graph"]["nodes"][1].update(
            target="torch.ops.aten.repeat.default", inputs=inputs
        )
    )
    action = reading(folder / "model.pt2", content)
    return lambda: observe_logits(action())


@hostile(GROUP, "weights that are no numbers", tells="NaN", names="logits")
def _(folder):
    import numpy as np

    action = reading(
        folder / "model.pt2", with_members(**{"data/weights/weight_1": np.full(16, np.nan, np.float32).tobytes()})
    )
    return lambda: observe_logits(action())


@hostile(f"control: {GROUP}", "the good archive is read", tells="", names="")
def _(folder):
    return reading(folder / "model.pt2", saved())


@hostile(f"control: {GROUP}", "torch runs the pickle of sample inputs that it finds", tells="executed", names="")
def _(folder):
    import contextlib

    import torch

    content = with_members(**{"data/sample_inputs/model.pt": _pickled()})

    def load():
        with contextlib.suppress(Exception):
            torch.load(io.BytesIO(members_of(content)["archive/data/sample_inputs/model.pt"]), weights_only=False)

    return load
