"""Small changes of an ONNX graph that keep its results and spare the runtime some nodes."""

import numpy as np
import onnx
from onnx import numpy_helper
from onnxscript.optimizer import remove_unused_nodes

__all__ = ["read_before_rounding", "with_fixed_reshapes"]

Shape = list[int | str | None]


def with_fixed_reshapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Reshape by constants where the sizes allow it, instead of by sizes that are computed from the image's.

    A size that is known stays, one that the input has at the same place becomes 0 (ONNX: copy it), and one more may be
    -1 (ONNX: what is left). The exporter names free sizes, so equal names are equal sizes.
    """
    graph = model.graph
    shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
        if not before or not after:
            continue
        target = [
            size if isinstance(size, int) else 0 if i < len(before) and size is not None and size == before[i] else -1
            for i, size in enumerate(after)
        ]
        if target.count(-1) > 1 or 0 in after:
            continue
        name = f"{node.output[0]}_sizes"
        graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
        node.input[1] = name
        del node.attribute[:]  # its only attribute says that 0 means a size of 0
    remove_unused_nodes(model)
    return model


def read_before_rounding(model: onnx.ModelProto, in_8_bits: set[str], products: set[str]) -> onnx.ModelProto:
    """Let what computes in float32 read what float32 wrote, not the copy that was rounded for others.

    Args:
        model: after quantisation, with pairs of QuantizeLinear and DequantizeLinear.
        in_8_bits: names of the nodes that read 8 bits.
        products: those among them that write float32.
    """
    graph = model.graph
    writer = {output: node for node in graph.node for output in node.output}
    exact = {}
    for node in graph.node:
        rounded = writer.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if rounded is not None and rounded.op_type == "QuantizeLinear":
            source = writer.get(rounded.input[0])
            if source is None or source.name not in in_8_bits - products:
                exact[node.output[0]] = rounded.input[0]
    for node in graph.node:
        if node.name not in in_8_bits:
            for i, name in enumerate(node.input):
                node.input[i] = exact.get(name, name)
    remove_unused_nodes(model)
    return model


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in value.type.tensor_type.shape.dim
    ]
