"""Turns float graphs into files of 8 bits, calibrated on images: NNCF for OpenVINO, onnxruntime for ONNX."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torchvision.transforms.v2 import functional as F

from segdistill.exporting.writers import make_openvino, quiet, save_openvino, write_onnx
from segdistill.models.exported import ExportCard

GROUP = 8
"""Calibration images that are looked at together. What a map's range is, is the mean over such groups.

Of single images the mean would cut off what a rare class is known by (10 points of its IoU were lost); the
extremes of all would make the steps coarser for the rest.
"""


def groups(images: Sequence[Tensor]) -> list[Tensor]:
    """Images, 3 x H x W each -> `GROUP` of them at a time, N x 3 x h x w, cut to their common centre."""
    found = []
    for start in range(0, len(images), GROUP):
        group = images[start : start + GROUP]
        common = [min(image.shape[axis] for image in group) for axis in (1, 2)]
        found.append(torch.stack([F.center_crop(image, common) for image in group]))
    return found


def as_input(images: Tensor, card: ExportCard) -> np.ndarray:
    """N x 3 x H x W uint8 RGB -> the form that the file takes."""
    if card.input == "image":
        return images.permute(0, 2, 3, 1).contiguous().numpy()
    scaled = F.to_dtype(images, torch.float32, scale=True)
    return F.normalize(scaled, list(card.mean), list(card.std)).numpy()


def quantize_openvino(
    program: ExportedProgram, path: Path, card: ExportCard, images: Sequence[Tensor]
) -> None:
    """Write an 8-bit OpenVINO file: NNCF's post-training quantization, per channel, with bias correction.

    Args:
        program: the float graph.
        path: the .xml file.
        card: what goes into its metadata.
        images: 3 x H x W uint8 each, on which the ranges of the maps are measured.
    """
    with quiet():
        import nncf

        nncf.set_log_level("ERROR")
        plain = make_openvino(program, card)
        convolutions = [node for node in plain.get_ordered_ops() if node.get_type_name() == "Convolution"]
        batches = groups(images)
        model = nncf.quantize(
            plain,
            nncf.Dataset(batches, lambda batch: as_input(batch, card)),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
            # The first stays in float: in 8 bits it alone changed the class of 13 % of a student's pixels.
            ignored_scope=nncf.IgnoredScope(names=[node.get_friendly_name() for node in convolutions[:1]]),
        )
    save_openvino(model, path)


def quantize_onnx(program: ExportedProgram, path: Path, card: ExportCard, images: Sequence[Tensor]) -> None:
    """Write an 8-bit ONNX file: static, per channel, as pairs of QuantizeLinear and DequantizeLinear.

    Args: as for `quantize_openvino`.
    """
    with quiet(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left: Iterator[dict[str, Any]] = ({"image": as_input(b, card)} for b in groups(images))

            def get_next(self) -> dict[str, Any] | None:
                return next(self.left, None)

        plain, ready = Path(folder) / "plain.onnx", Path(folder) / "ready.onnx"
        write_onnx(program, plain, card)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            nodes_to_exclude=_ends(onnx.load(ready).graph.node),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"CalibMovingAverage": True},
        )


def _ends(nodes: Sequence[Any]) -> list[str]:
    """Names of the nodes of a graph up to its first convolution and from its last on: they stay in float.

    In 8 bits the first would see 256 values of a whole image in place of each channel's own 256, and the
    last would give logits of which many are equal.
    """
    places = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for node in (*nodes[: places[0] + 1], *nodes[places[-1] :])] if places else []


QUANTIZERS = {"openvino": quantize_openvino, "onnx": quantize_onnx}
"""What writes an 8-bit file of each format that has them."""
