"""Writes a network as a file of each format, with free batch, height and width where the format has them.

N: images, H, W: rows and columns, K: classes.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.fx.experimental._config as symbolic
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.value_ranges import ValueRanges

from segdistill.config.pins import CONVERTER_PACKAGES
from segdistill.files import first_line
from segdistill.models.export_card import ENTRY, ExportCard
from segdistill.models.file_formats import FORMATS
from segdistill.models.fused import fuse_for_runtimes
from segdistill.models.isolated import run_isolated
from segdistill.models.quiet import quiet
from segdistill.models.trained import TrainedNetwork

TRACED = (2, 69, 91)
"""N, H, W of the example that the graph is traced with: numbers that no network treats specially."""

CONVERTERS = Path(__file__).parent / "converters"
"""Programs that convert a graph in an environment of their own, because their packages hold back others."""


class ExportGraph(nn.Module):
    """What the file computes: normalisation, the network, and the output that was chosen.

    Args:
        network: to export; it is copied.
        card: input, output, and the statistics of the normalisation.
        concatenate: see `fuse_for_runtimes`.
        planes: see `FileFormat`.
    """

    def __init__(
        self, network: TrainedNetwork, card: ExportCard, *, concatenate: bool, planes: bool = False
    ) -> None:
        super().__init__()
        self.network = fuse_for_runtimes(network.module, concatenate=concatenate)
        self.inputs_images, self.outputs_masks = card.input == "image", card.output == "mask"
        self.planes = planes
        with torch.no_grad():
            self.upsamples = network.module(torch.zeros(1, 3, 64, 64)).shape[2:] != (64, 64)
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("gain", 1 / (255 * torch.tensor(card.std).view(1, 3, 1, 1)), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """N x H x W x 3 uint8 or N x 3 x H x W -> N x K x H x W logits, or N x H x W uint8."""
        if self.inputs_images:
            image = image if self.planes else image.permute(0, 3, 1, 2).float()
            image = (image - cast(Tensor, self.mean)) * cast(Tensor, self.gain)
        logits = self.network(image)
        if self.upsamples:
            logits = F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
        return logits.argmax(dim=1).to(torch.uint8) if self.outputs_masks else logits


def trace(network: TrainedNetwork, card: ExportCard, form: str, *, int8: bool) -> ExportedProgram:
    """The graph of a network, for any number of images of any size, or what format and card allow.

    Args:
        network: to export.
        card: its input and output.
        form: the format of the file.
        int8: it is to be quantized.

    Raises:
        ValueError: its code decides by the size of the image, so that no graph holds for all sizes.
    """
    planes = FORMATS[form].planes
    count, height, width = TRACED if card.side is None else (1, card.side, card.side)
    max_batch, max_side = FORMATS[form].largest or (None, None)
    count = min(count, max_batch or count)
    if card.input == "image" and not planes:
        example = torch.zeros(count, height, width, 3, dtype=torch.uint8)
        axes = (1, 2)
    else:
        example, axes = torch.zeros(count, 3, height, width), (2, 3)
    free = {axis: Dim.DYNAMIC(max=max_side) for axis in axes}
    if max_batch != 1:
        free[0] = Dim.DYNAMIC(max=max_batch)
    # The sum of two convolutions is faster than one over a concatenation, but not as int8; in ExecuTorch it
    # takes 60 times as long.
    concatenate = int8 or form == "executorch"
    graph = ExportGraph(network, card, concatenate=concatenate, planes=planes).eval()
    try:
        if card.side is not None:
            with quiet():
                return torch.export.export(graph, (example,))
        with quiet(), symbolic.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(
                graph, (example,), dynamic_shapes=(free,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except Exception as error:  # the tracer raises nearly anything
        size = "images of any size" if card.side is None else f"an image of {card.side}x{card.side} pixels"
        raise ValueError(f"{card.source} cannot be exported for {size}: {first_line(error)}") from None
    return _without_conditions(program)


def _without_conditions(program: ExportedProgram) -> ExportedProgram:
    """Drop what the tracer concluded from its one example: that there are two images or more, and so on.

    Whether the graph holds for one image of one pixel is measured afterwards.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    program._guards_code = []
    for symbol, allowed in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(1, allowed.upper)
    return program


def write_onnx(program: ExportedProgram, path: Path, card: ExportCard) -> None:
    """Write a .onnx file; each entry of the card is a JSON text in its metadata."""
    with quiet():
        written = torch.onnx.export(
            program, input_names=["image"], output_names=[card.output], dynamo=True, verbose=False
        )
    assert written is not None
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()  # where in the source code it came from, with paths of this machine
    written.model.metadata_props.update({key: json.dumps(value) for key, value in card.to_dict().items()})
    written.save(path, external_data=False)


def make_openvino(program: ExportedProgram, card: ExportCard) -> Any:
    """The OpenVINO model of a graph."""
    import openvino

    with quiet():
        model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({card.output})
    _simplify_pooling(model)
    _simplify_cropping(model)
    model.set_rt_info(json.dumps(card.to_dict()), [ENTRY])
    model.validate_nodes_and_infer_types()
    return model


def write_openvino(program: ExportedProgram, path: Path, card: ExportCard) -> None:
    """Write a .xml file with its .bin; the card is the entry `segdistill` of its rt_info."""
    save_openvino(make_openvino(program, card), path)


def save_openvino(model: Any, path: Path) -> None:
    """Write an OpenVINO model with its weights as they are."""
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)


def _simplify_pooling(model: Any) -> None:
    """Replace 2 x 2 pooling that rounds up by pooling that rounds down, padded by one row and column.

    OpenVINO's own form of it refuses sides of one pixel, and writes indices that nobody reads.
    """
    from openvino import opset1

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MaxPool":
            continue
        form = node.get_attributes()
        padded = any(form["pads_begin"] + form["pads_end"])
        halves = form["kernel"] == form["strides"] == [2, 2] and not padded
        if halves and form["rounding_type"].startswith("ceil"):
            pooled = opset1.max_pool(node.input_value(0), [2, 2], [0, 0], [1, 1], [2, 2], "floor", "explicit")
            node.output(0).replace(pooled.output(0))


def _simplify_cropping(model: Any) -> None:
    """Replace slices that keep the first rows and columns by the older operator, which NNCF can quantize.

    It leaves what is before the newer operator in float.
    """
    from openvino import opset8

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Slice":
            continue
        image, start, stop, step, axes = node.input_values()
        start, step, axes = (getattr(value.get_node(), "data", None) for value in (start, step, axes))
        if start is None or step is None or axes is None or start.any() or (step != 1).any():
            continue
        rank = image.get_partial_shape().rank.get_length()
        kept = [int(axis not in axes % rank) for axis in range(rank)]
        position = np.zeros(rank, np.int64)
        position[axes] = np.arange(len(axes))
        cropped = opset8.strided_slice(
            image, np.zeros(rank, np.int64), opset8.gather(stop, position, 0), np.ones(rank, np.int64),
            begin_mask=[1] * rank, end_mask=kept,
        )  # fmt: skip
        node.output(0).replace(cropped.output(0))


def write_pt2(program: ExportedProgram, path: Path, card: ExportCard) -> None:
    """Write a .pt2 file; the card is its extra file `segdistill`."""
    with quiet():
        torch.export.save(program, path, extra_files={ENTRY: json.dumps(card.to_dict())})


def write_executorch(program: ExportedProgram, path: Path, card: ExportCard) -> None:
    """Write a .pte file for XNNPACK; the card is what its method `segdistill` returns."""
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        # The tracer's conclusions about sizes come back as operators that this check does not know.
        unchecked = EdgeCompileConfig(_check_ir_validity=False)
        lowered = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            compile_config=unchecked,
            constant_methods={ENTRY: json.dumps(card.to_dict())},
        ).to_executorch()
    path.write_bytes(lowered.buffer)


def write_litert(program: ExportedProgram, path: Path, card: ExportCard) -> None:
    """Write a .tflite file, in litert-torch's environment."""
    convert_litert(program, path, card)


def convert_litert(
    program: ExportedProgram, path: Path, card: ExportCard, number_type: str = "float32"
) -> None:
    """As `write_litert`, with weights in `float32` or `int8`."""
    _write_card(path, card)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.pt2"
        write_pt2(program, graph, card)
        run_isolated(CONVERTER_PACKAGES["litert"], CONVERTERS / "litert.py", graph, path, number_type)


def write_ncnn(program: ExportedProgram, path: Path, card: ExportCard) -> None:
    """Write a .ncnn.param file and its .ncnn.bin, in pnnx's environment."""
    _write_card(path, card)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.onnx"
        write_onnx(program, graph, card)
        run_isolated(
            CONVERTER_PACKAGES["ncnn"], CONVERTERS / "ncnn.py", graph, path, f"[1,3,{card.side},{card.side}]"
        )


def write_coreml(program: ExportedProgram, path: Path, card: ExportCard) -> None:
    """Write an .mlpackage folder, in the environment of coremltools, and read its specification again."""
    _write_card(path, card)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.pt2"
        write_pt2(program, graph, card)
        text = json.dumps(card.to_dict())
        run_isolated(
            CONVERTER_PACKAGES["coreml"], CONVERTERS / "coreml.py", graph, path, card.input, card.output, text
        )


def _write_card(path: Path, card: ExportCard) -> None:
    """The card of a file that has no room for it."""
    path.with_name(f"{path.name}.json").write_text(json.dumps(card.to_dict()))


Write = Callable[[ExportedProgram, Path, ExportCard], None]

WRITERS: dict[str, Write] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
    "pt2": write_pt2,
    "executorch": write_executorch,
    "litert": write_litert,
    "ncnn": write_ncnn,
    "coreml": write_coreml,
}
"""What writes a file, by name of the format."""
