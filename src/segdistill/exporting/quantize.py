"""Writes graphs as int8 files: by NNCF and onnxruntime, calibrated on images, and by LiteRT's own quantizer.

N: images, H, W: rows and columns.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torchvision.transforms.v2 import functional as F

from segdistill.data.images import list_images, read_image
from segdistill.data.samples import Samples
from segdistill.data.transforms import normalise, resize_long_side, to_tensor
from segdistill.exporting.writers import convert_litert, make_openvino, save_openvino, write_onnx
from segdistill.models.export_card import ExportCard
from segdistill.models.openvino_graphs import sole_core
from segdistill.models.quiet import quiet

GROUP = 8
"""Calibration images of a batch. A map's range is the mean of its extremes over such groups.

The mean over single images would cut off the values of a rare class (10 points of its IoU were lost); the
extremes of all images would make the steps coarser for the others.
"""

HALVED_FROM = 64
"""Values of the smallest weight that is stored in float16."""

CALIBRATION_SIDE = 512
"""Long side, in pixels, of images to calibrate on for a network without a size: groups take memory."""


def calibration_images(
    source: Samples | Path, count: int, size: int | None, bits: int | None = None
) -> list[Tensor]:
    """Up to `count` images, 3 x h x w uint8, evenly spaced, of a data set or of a folder.

    Args:
        source: where they come from.
        count: how many.
        size: the network's, to which their long side is resized; None downscales those above
            `CALIBRATION_SIDE` to it.
        bits: of the network, for a folder, see `read_image`.

    Raises:
        ValueError: the source is empty.
    """
    read: Callable[[int], Tensor]
    if isinstance(source, Path):
        files = list(list_images(source))
        total, read = len(files), lambda index: to_tensor(read_image(files[index], bits))
    else:
        total, read = len(source), lambda index: source[index].image
    if total == 0:
        raise ValueError(f"{source} holds no images to calibrate on")
    chosen = [index * total // count for index in range(count)] if total > count else range(total)
    images = map(read, chosen)
    return [resize_long_side(image, size or min(max(image.shape[1:]), CALIBRATION_SIDE)) for image in images]


def group_images(images: Sequence[Tensor]) -> list[Tensor]:
    """Images, 3 x H x W each -> `GROUP` of them at a time, N x 3 x h x w, cropped to their common centre."""
    batches = []
    for start in range(0, len(images), GROUP):
        group = images[start : start + GROUP]
        common = [min(image.shape[axis] for image in group) for axis in (1, 2)]
        batches.append(torch.stack([F.center_crop(image, common) for image in group]))
    return batches


def as_input(images: Tensor, card: ExportCard) -> np.ndarray:
    """N x 3 x H x W uint8 RGB -> the file's input."""
    if card.input == "image":
        return images.permute(0, 2, 3, 1).contiguous().numpy()
    return normalise(images, card.mean, card.std).numpy()


def quantize_openvino(
    program: ExportedProgram, path: Path, card: ExportCard, images: Sequence[Tensor]
) -> None:
    """Write an int8 OpenVINO file: NNCF's post-training quantization, per channel, with bias correction.

    Args:
        program: the float graph.
        path: the .xml file.
        card: its metadata.
        images: 3 x H x W uint8 each, on which the ranges of the maps are measured.
    """
    with quiet():
        import nncf

        nncf.set_log_level("ERROR")
        plain = make_openvino(program, card)
        operators = plain.get_ordered_ops()
        # The first stays in float: as int8 it alone changed the class of 13 % of a student's pixels.
        floats = [node for node in operators if node.get_type_name() == "Convolution"][:1]
        floats += [node for node in operators if follows_pointwise(node)]
        floats += upsampling(operators)
        batches = group_images(images)
        with sole_core():
            model = nncf.quantize(
                plain,
                nncf.Dataset(batches, lambda batch: as_input(batch, card)),
                subset_size=len(batches),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=[node.get_friendly_name() for node in floats]),
            )
    save_openvino(model, path)


def follows_pointwise(node: Any) -> bool:
    """Whether an operator is a depthwise convolution of what a 1 x 1 one gives, as in a MobileNet's blocks.

    It stays in float: in 8 bits, on maps of 2 x 2 pixels, it killed the process (OpenVINO 2026.4, a processor
    with AMX).
    """
    if node.get_type_name() != "GroupConvolution":
        return False
    before = node.input_value(0).get_node()
    while before.get_type_name() in {"Add", "Clamp", "Relu", "HSwish", "Swish", "Multiply"}:
        before = before.input_value(0).get_node()
    kernel = before.input_value(1).get_partial_shape() if before.get_type_name() == "Convolution" else None
    return kernel is not None and kernel.get_min_shape()[2:] == [1, 1]


def upsampling(operators: Sequence[Any]) -> list[Any]:
    """The products of matrices after the last convolution: the logits' way to each pixel stays in float."""
    types = [node.get_type_name() for node in operators]
    convolutions = [index for index, kind in enumerate(types) if kind == "Convolution"]
    after = convolutions[-1] if convolutions else len(operators)
    return [node for node, kind in zip(operators[after:], types[after:], strict=True) if kind == "MatMul"]


def quantize_onnx(program: ExportedProgram, path: Path, card: ExportCard, images: Sequence[Tensor]) -> None:
    """Write an int8 ONNX file: static, per channel, as pairs of QuantizeLinear and DequantizeLinear.

    Args: as for `quantize_openvino`.
    """
    with quiet(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.inputs: Iterator[dict[str, Any]] = (
                    {"image": as_input(batch, card)} for batch in group_images(images)
                )

            def get_next(self) -> dict[str, Any] | None:
                return next(self.inputs, None)

        plain, ready = Path(folder) / "plain.onnx", Path(folder) / "ready.onnx"
        write_onnx(program, plain, card)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            nodes_to_exclude=_float_nodes(onnx.load(ready).graph.node),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"CalibMovingAverage": True},
        )


def _float_nodes(nodes: Sequence[Any]) -> list[str]:
    """Names of the nodes of a graph up to its first convolution and from its last on: they stay in float.

    As int8 the first would get 256 values for the whole image in place of 256 for each channel, and the last
    would give logits of which many are equal.
    """
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    if not convolutions:
        return []
    first, last = convolutions[0], convolutions[-1]
    return [node.name for node in (*nodes[: first + 1], *nodes[last:])]


def halve_weights(path: Path) -> None:
    """Store the float32 weights of an ONNX file in float16; a Cast makes float32 of each again.

    Runtimes fold the casts when they load the file, so it computes in float32 at the same speed.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < HALVED_FROM:
            continue
        name, half = weight.name, numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}.float16"))
        casts.append(helper.make_node("Cast", [weight.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.save(model, path)


def quantize_litert(program: ExportedProgram, path: Path, card: ExportCard, images: Sequence[Tensor]) -> None:
    """Write an int8 LiteRT file: weights in 8 bits, the ranges of maps found at each pass, without images.

    With ranges measured on drawn pictures a student of animals lost 46 points of mean IoU.

    Args: as for `quantize_openvino`.
    """
    del images
    convert_litert(program, path, card, "int8")


QUANTIZERS = {"openvino": quantize_openvino, "onnx": quantize_onnx, "litert": quantize_litert}
"""What writes an int8 file, by name of the format, as far as it has them."""
