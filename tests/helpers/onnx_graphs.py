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
