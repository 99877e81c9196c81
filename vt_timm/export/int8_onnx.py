"""8 bits in ONNX: static quantisation by onnxruntime, per channel, with the ranges seen on the user's photos.

Convolutions, and what stands between two of them, compute in 8 bits. So do products with constant matrices, but their
results stay in float32. All else is float32: a product of sixteen tokens, a softmax or a transpose costs less than
quantising what it reads and writes. `python -m benchmarks.export` records what each choice costs.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxscript.optimizer import remove_unused_nodes

BETWEEN_CONVOLUTIONS = {"Relu", "Clip", "Add", "MaxPool", "AveragePool", "Concat"}
WITH_WEIGHTS = {"MatMul", "Gemm"}


class _Photos(CalibrationDataReader):
    def __init__(self, batches: Iterable[np.ndarray], name: str) -> None:
        self.inputs = ({name: batch} for batch in batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.inputs, None)


def quantize(source: Path, target: Path, batches: Iterable[np.ndarray]) -> None:
    """Write a float32 ONNX file in 8 bits.

    Args:
        source: the file to read, which has one input.
        target: the file to write.
        batches: normalised photos (B, channels, H, W), from which the range of every activation is taken.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)  # batch norms into convolutions
        graph = onnx.load(prepared, load_external_data=False).graph
        nodes = in_8_bits(graph)
        quantize_static(
            str(prepared),
            str(target),
            _Photos(batches, graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted({"Conv", *BETWEEN_CONVOLUTIONS, *WITH_WEIGHTS}),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": sorted(WITH_WEIGHTS)},
        )
        products = {node.name for node in graph.node if node.op_type in WITH_WEIGHTS}  # their results are float32
        onnx.save(read_before_rounding(onnx.load(target), set(nodes), products), target)


def in_8_bits(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that compute in 8 bits: convolutions, sums and poolings of their results, and
    products with a constant matrix.
    """
    constants = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    convolved: set[str] = set()
    chosen = []
    for node in graph.node:
        of_convolutions = node.op_type in BETWEEN_CONVOLUTIONS and all(
            name in convolved or name in constants for name in node.input if name
        )
        if node.op_type == "Conv" or of_convolutions:
            convolved.update(node.output)
            chosen.append(node.name)
        elif node.op_type in WITH_WEIGHTS and constants.get(node.input[1]) == 2:
            chosen.append(node.name)
    return chosen


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
