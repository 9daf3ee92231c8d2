"""Small ONNX graphs, written by hand from the weights of torch modules."""

import numpy as np
import pytest


def write_mlp(path, linear_layers, batch="n", external=None, name="logits", opset=17, rows=None):
    """Write Linear layers with ReLU between them as Gemm nodes; `batch` is the input's first dimension.

    `rows` is a shape that the result is brought into.
    """
    for name_of_package in ("onnx", "onnxruntime"):
        pytest.importorskip(name_of_package, reason=f"{name_of_package} is not installed (extra: onnx)")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors, current = [], [], "input"
    for index, layer in enumerate(linear_layers):
        for part, value in (("w", layer.weight), ("b", layer.bias)):
            tensors.append(numpy_helper.from_array(value.detach().numpy().copy(), f"{part}{index}"))
        last = index == len(linear_layers) - 1
        result = name if last else f"gemm{index}"
        nodes.append(helper.make_node("Gemm", [current, f"w{index}", f"b{index}"], [result], transB=1))
        current = result
        if not last:
            nodes.append(helper.make_node("Relu", [current], [f"relu{index}"]))
            current = f"relu{index}"
    first, last = linear_layers[0], linear_layers[-1]
    shape = [batch, last.out_features]
    if rows is not None:
        tensors.append(numpy_helper.from_array(np.array(rows), "rows"))
        nodes[-1].output[0] = "flat"
        nodes.append(helper.make_node("Reshape", ["flat", "rows"], [name]))
        shape = None
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, first.in_features])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if external is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    return path


def write_words(path, model, batch="n"):
    """Write a model of the mean embedding of tokens: input_ids and attention_mask to logits and hidden."""
    for name_of_package in ("onnx", "onnxruntime"):
        pytest.importorskip(name_of_package, reason=f"{name_of_package} is not installed (extra: onnx)")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = {"E": model.embed.weight, "W": model.head.weight, "B": model.head.bias}
    arrays = {name: one.detach().numpy().copy() for name, one in values.items()}
    arrays |= {"last": np.array([2]), "places": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["E", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["marks"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["marks", "last"], ["keep"]),
        helper.make_node("Mul", ["embedded", "keep"], ["hidden"]),
        helper.make_node("ReduceSum", ["hidden", "places"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["keep", "places"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Gemm", ["mean", "W", "B"], ["logits"], transB=1),
    ]
    rows, width = arrays["W"].shape
    graph = helper.make_graph(
        nodes,
        "words",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, [batch, "t"])
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, rows]),
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [batch, "t", width]),
        ],
        [numpy_helper.from_array(one, name) for name, one in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
