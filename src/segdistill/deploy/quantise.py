"""Turns float graphs into files of 8 bits, calibrated on images: NNCF for OpenVINO, onnxruntime for ONNX."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torchvision.transforms.v2 import functional as F

from segdistill.data.transforms import normalise
from segdistill.deploy.formats import make_openvino, quiet, save_openvino, write_onnx
from segdistill.models.exported import ExportCard
from segdistill.models.trained import TrainedNetwork, load_network

Ranges = Literal["mean", "extremes"]
"""What a map's range is: the mean over the images of its smallest and its largest value, or those of all."""
COMPARED = 16
"""Calibration images on which the two kinds of ranges are compared."""


def quantise(
    form: str, program: ExportedProgram, path: Path, card: ExportCard, images: Sequence[Tensor],
    network: TrainedNetwork,
) -> Ranges:  # fmt: skip
    """Write an 8-bit file with the kind of ranges whose answers come nearer to the network's own.

    Photographs have rare extremes, which are better cut off; drawings have none.

    Args:
        form: onnx or openvino.
        program: the float graph.
        path: the file.
        card: what goes into its metadata.
        images: 3 x H x W uint8 each, on which the ranges of the maps are measured.
        network: what the graph was made of.

    Returns:
        Which ranges were taken.
    """
    errors: dict[Ranges, float] = {}
    for ranges in KINDS:
        draft = path.with_name(f"{ranges}{path.suffix}")
        QUANTISERS[form](program, draft, card, images, ranges)
        errors[ranges] = logit_error(
            network, load_network(str(draft)), images[:: -(-len(images) // COMPARED)]
        )
    best = min(KINDS, key=lambda ranges: errors[ranges])
    for ranges in KINDS:
        for part in list(path.parent.glob(f"{ranges}.*")):
            if ranges == best:
                part.replace(path.with_suffix(part.suffix))
            else:
                part.unlink()
    return best


@torch.inference_mode()
def logit_error(network: TrainedNetwork, written: TrainedNetwork, images: Sequence[Tensor]) -> float:
    """Mean squared difference of two networks' logits or, of a file with masks, share of other classes."""
    errors = []
    for image in images:
        seen = normalise(image)[None]
        expected, found = network(seen), written(seen)
        if written.answers_masks:
            errors.append(float((expected.argmax(dim=1) != found.argmax(dim=1)).float().mean()))
        else:
            errors.append(float((expected - found).square().mean()))
    return sum(errors) / len(errors)


def as_input(image: Tensor, card: ExportCard) -> np.ndarray:
    """3 x H x W uint8 RGB -> one image in the form that the file takes."""
    if card.input == "image":
        return image.permute(1, 2, 0)[None].contiguous().numpy()
    scaled = F.to_dtype(image, torch.float32, scale=True)
    return F.normalize(scaled, list(card.mean), list(card.std))[None].numpy()


def quantise_openvino(
    program: ExportedProgram, path: Path, card: ExportCard, images: Sequence[Tensor], ranges: Ranges
) -> None:
    """Write an 8-bit OpenVINO file: NNCF's post-training quantisation, per channel, with bias correction.

    Args:
        program: the float graph.
        path: the .xml file.
        card: what goes into its metadata.
        images: 3 x H x W uint8 each, on which the ranges of the maps are measured.
        ranges: what of them.
    """
    with quiet():
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Estimators

        nncf.set_log_level("ERROR")
        plain = make_openvino(program, card)
        convolutions = [node for node in plain.get_ordered_ops() if node.get_type_name() == "Convolution"]
        estimator = {"mean": Estimators.MEAN_MINMAX, "extremes": Estimators.MINMAX}[ranges]
        model = nncf.quantize(
            plain,
            nncf.Dataset(images, lambda image: as_input(image, card)),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            # The first stays in float: in 8 bits it alone changed the class of 13 % of a student's pixels.
            ignored_scope=nncf.IgnoredScope(names=[node.get_friendly_name() for node in convolutions[:1]]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=estimator
            ),
        )
    save_openvino(model, path)


def quantise_onnx(
    program: ExportedProgram, path: Path, card: ExportCard, images: Sequence[Tensor], ranges: Ranges
) -> None:
    """Write an 8-bit ONNX file: static, per channel, as pairs of QuantizeLinear and DequantizeLinear.

    Args: as for `quantise_openvino`.
    """
    with quiet(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left: Iterator[dict[str, Any]] = ({"image": as_input(i, card)} for i in images)

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
            extra_options={"CalibMovingAverage": ranges == "mean"},
        )


def _ends(nodes: Sequence[Any]) -> list[str]:
    """Names of the nodes of a graph up to its first convolution and from its last on: they stay in float.

    In 8 bits the first would see 256 values of a whole image in place of each channel's own 256, and the
    last would give logits of which many are equal.
    """
    places = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for node in (*nodes[: places[0] + 1], *nodes[places[-1] :])] if places else []


QUANTISERS = {"openvino": quantise_openvino, "onnx": quantise_onnx}
"""What writes an 8-bit file of each format that has them."""
KINDS: tuple[Ranges, ...] = ("mean", "extremes")
