"""ONNX files that reach outside, lie about their tensors, or are no graphs of a model."""

from __future__ import annotations

from hostile_payloads import damage, make_mlp, observe_logits, reading, written
from hostile_registry import add_case, hostile

GROUP = "ONNX"


def graph(change=lambda model: None, batch="n") -> bytes:
    """Return the good network as an ONNX file, after a change of the model's protobuf."""
    from onnx import TensorProto, helper, numpy_helper

    layers = make_mlp(1)[0], make_mlp(1)[2]
    tensors = [
        numpy_helper.from_array(value.detach().numpy().copy(), f"{part}{index}")
        for index, layer in enumerate(layers)
        for part, value in (("w", layer.weight), ("b", layer.bias))
    ]
    nodes = [
        helper.make_node("Gemm", ["input", "w0", "b0"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w1", "b1"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 6])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])]
    made = helper.make_graph(nodes, "mlp", inputs, outputs, tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    change(model)
    return model.SerializeToString()


def _external(**entries):
    """Return the file whose first tensor lies in another file."""

    def change(model) -> None:
        from onnx import TensorProto

        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)

    return lambda: graph(change)


def _tensor(**fields):
    def change(model) -> None:
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            if name == "dims":
                tensor.ClearField("dims")
                tensor.dims.extend(value)
            else:
                setattr(tensor, name, value)

    return lambda: graph(change)


def _node(number: int = 1, **fields):
    def change(model) -> None:
        for name, value in fields.items():
            if isinstance(value, list):
                model.graph.node[number].ClearField(name)
                getattr(model.graph.node[number], name).extend(value)
            else:
                setattr(model.graph.node[number], name, value)

    return lambda: graph(change)


def _changed(change):
    return lambda: graph(change)


def _one_more_input(model) -> None:
    from onnx import TensorProto, helper

    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))


def _two_outputs(model) -> None:
    from onnx import TensorProto, helper

    model.graph.output[0].name = model.graph.node[2].output[0] = "first"
    model.graph.output.append(helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", 16]))


def _texts(model) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 8


def _no_batch(model) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.input[0].type.tensor_type.shape.SetInParent()


def _deep(model) -> None:
    """Put graphs into one another, a hundred deep."""
    holder = model.graph.node[1]
    for _ in range(70):
        attribute = holder.attribute.add()
        attribute.name, attribute.type = "body", 5
        attribute.g.name = "inner"
        holder = attribute.g.node.add()
        holder.op_type, holder.name = "If", "deeper"


def _huge_constant(model) -> None:
    """Let the graph ask for 2^45 numbers while it runs."""
    import numpy as np
    from onnx import helper, numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40, 32], np.int64), "size"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["huge"]))
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["huge"], ["total"], keepdims=0))
    model.graph.node.insert(2, helper.make_node("Add", ["input", "total"], ["moved"]))
    model.graph.node[3].input[0] = "moved"


_READ = "onnxruntime refuses it"
_FILES = {
    "a tensor in a file above the folder": (_external(location="../secret"), "outside of its folder"),
    "a tensor in an absolute file": (_external(location="/etc/passwd"), "outside of its folder"),
    "a tensor in a file of Windows": (_external(location="C:\\secret"), "outside of its folder"),
    "a tensor in a file below and above": (_external(location="a/../../secret"), "outside of its folder"),
    "a tensor in a file with a zero byte": (_external(location="a\0b"), "outside of its folder"),
    "a tensor in a file that is not there": (_external(location="nowhere"), "no such file"),
    "a tensor that does not say where it lies": (_external(offset=3), "its tensor w0"),
    "a tensor at an offset below zero": (_external(location="model.onnx", offset=-8, length=384), _READ),
    "a tensor at an offset beyond its file": (_external(location="model.onnx", offset=1 << 40, length=384), _READ),
    "a tensor at an offset of 2^70": (_external(location="model.onnx", offset=1 << 70, length=384), _READ),
    "a tensor of another length": (_external(location="model.onnx", offset=0, length=1 << 40), _READ),
    "a tensor in the folder itself": (_external(location="."), "is a folder"),
    "a tensor of 2^60 numbers": (_tensor(dims=[1 << 60, 6]), _READ),
    "a tensor of sizes below zero": (_tensor(dims=[-16, -6]), _READ),
    "a tensor whose size overflows": (_tensor(dims=[1 << 62, 4]), _READ),
    "a tensor of more numbers than there are": (_tensor(dims=[16, 600]), _READ),
    "a tensor of a dtype that is not there": (_tensor(data_type=99), _READ),
    "a tensor of doubles": (_tensor(data_type=11), _READ),
    "an operator that is not there": (_node(op_type="Relux"), _READ),
    "an operator of another's library": (_node(domain="evil.example", op_type="Run"), _READ),
    "an operator that opens a compiled graph": (_node(op_type="EPContext"), "which opens files"),
    "a node that reads what it writes": (_node(input=["active"]), _READ),
    "two nodes that read each other": (_node(0, input=["active", "w0", "b0"]), _READ),
    "a node that reads what nobody writes": (_node(input=["nobody"]), _READ),
    "a result that nobody writes": (_node(2, output=["other"]), _READ),
    "a node without inputs": (_node(input=[]), _READ),
    "graphs within graphs": (_changed(_deep), "more than 64 deep|reading it as ONNX failed"),
    "an opset of the future": (_changed(lambda model: setattr(model.opset_import[0], "version", 9999)), _READ),
    "an IR of the future": (_changed(lambda model: setattr(model, "ir_version", 9999)), _READ),
    "no opset": (_changed(lambda model: model.ClearField("opset_import")), _READ),
    "no nodes": (_changed(lambda model: model.graph.ClearField("node")), "it has no graph"),
    "texts as input": (_changed(_texts), f"a tensor .n, ....|{_READ}"),
    "an input that is one number": (_changed(_no_batch), f"a tensor .n, ....|{_READ}"),
    "a batch of none": (lambda: graph(batch=0), "not a possible batch size|failed"),
    "half a file": (lambda: graph()[: len(graph()) // 2], "reading it as ONNX failed|" + _READ),
    "a file of three bytes": (lambda: b"\x08\x08\x3a", "reading it as ONNX failed"),
    "a flipped bit in a length": (lambda: damage(graph(), graph().index(b":") + 1, 6), "failed|not an ONNX"),
    "a flipped bit in an operator": (lambda: damage(graph(), graph().index(b"Relu"), 1), _READ),
    "a text": (lambda: b"\x08\x08 import os; os.system('true')", "reading it as ONNX failed|not an ONNX"),
}
_ELSEWHERE = {"a tensor in a file that is not there": "nowhere", "a tensor in the folder itself": "/"}
for _name, (_make, _tells) in _FILES.items():
    add_case(
        GROUP,
        _name,
        lambda folder, make=_make: reading(folder / "model.onnx", make()),
        tells=_tells,
        names=_ELSEWHERE.get(_name, "model.onnx"),
    )


@hostile(GROUP, "two inputs of which one is given", tells="is given 1 tensor by position", names="ONNX graph")
def _(folder):
    action = reading(folder / "model.onnx", graph(_one_more_input))
    return lambda: observe_logits(action())


@hostile(GROUP, "two results of which none is chosen", tells="output=", names="hidden")
def _(folder):
    action = reading(folder / "model.onnx", graph(_two_outputs))
    return lambda: observe_logits(action())


@hostile(GROUP, "a tensor in a link that leads outside", tells="outside of its folder", names="model.onnx")
def _(folder):
    written(folder / "secret", bytes(384))
    (folder / "inner").mkdir()
    (folder / "inner/weights").symlink_to(folder / "secret")
    return reading(folder / "inner/model.onnx", _external(location="weights")())


@hostile(GROUP, "a tensor in a link to itself", tells="Symlink loop|symbolic links", names="weights")
def _(folder):
    (folder / "weights").symlink_to(folder / "weights")
    return reading(folder / "model.onnx", _external(location="weights")())


@hostile(GROUP, "a tensor in a FIFO", tells="not a regular file", names="weights")
def _(folder):
    import os

    os.mkfifo(folder / "weights")
    return reading(folder / "model.onnx", _external(location="weights")())


@hostile(GROUP, "tensors beyond what is allowed", tells="more than 5,000 bytes|at most 5,000", names="weights")
def _(folder):
    written(folder / "weights", bytes(9000))
    return reading(folder / "model.onnx", _external(location="weights")(), max_bytes=5000)


@hostile(GROUP, "a provider that is not there", tells="onnxruntime has", names="providers")
def _(folder):
    return reading(folder / "model.onnx", graph(), providers=["/nowhere/evil.so"])


@hostile(GROUP, "an input of another name", tells="the graph takes input", names="input")
def _(folder):
    return reading(folder / "model.onnx", graph(), input="images")


@hostile(GROUP, "a batch that the graph does not take", tells="invalid dimensions", names="input")
def _(folder):
    import torch

    from cp_compress.fidelity import observe

    action = reading(folder / "model.onnx", graph())
    return lambda: observe(action(), (torch.zeros(4, 7), torch.zeros(4, dtype=torch.int64))).logits


@hostile(GROUP, "2^45 numbers while it runs", tells="more memory than is available", names="onnxruntime")
def _(folder):
    action = reading(folder / "model.onnx", graph(_huge_constant))
    return lambda: observe_logits(action())


@hostile(GROUP, "weights that are no numbers", tells="NaN", names="logits")
def _(folder):
    import numpy as np

    action = reading(folder / "model.onnx", _tensor(raw_data=np.full(96, np.nan, np.float32).tobytes())())
    return lambda: observe_logits(action())


@hostile(f"control: {GROUP}", "the good file is read", tells="", names="")
def _(folder):
    return reading(folder / "model.onnx", graph())
