"""Files in int8: what stays in float, what is measured, and on which images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.exporting import quantize
from segdistill.exporting.quantize import as_input, calibration_images, group_images
from segdistill.models.export_card import ExportCard

pytestmark = pytest.mark.integration

Export = Callable[[str], Path]


@pytest.mark.parametrize("form", ["openvino", "onnx"])
def test_int8_is_measured(quantized: Export, form: str) -> None:
    path = quantized(form)
    parity = json.loads(path.with_name(f"{path.name}.json").read_text())["parity"]
    assert parity["miou_before"] is not None
    assert parity["miou_after"] is not None
    # int8 does change the logits, but not beyond what 256 steps of a map explain.
    assert parity["logit_difference"] > 1e-4
    assert parity["same_class"] > 0.8


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="int8 transposed convolutions need AVX-512"
)
def test_maps_stay_int8_from_one_layer_to_the_next(quantized: Export) -> None:
    path = quantized("openvino")
    import openvino

    compiled = openvino.compile_model(path, "CPU")
    compiled(np.zeros((1, 64, 64, 3), np.uint8))
    layers = [
        (node.rt_info["layerType"].astype(str), node.rt_info["outputPrecisions"].astype(str))
        for node in compiled.get_runtime_model().get_ordered_ops()
        if "outputPrecisions" in node.rt_info
    ]
    upsampled = [precision for layer, precision in layers if layer == "Deconvolution"]
    cropped = [precision for layer, precision in layers if layer == "StridedSlice"]
    assert upsampled == cropped == ["u8"] * 3


def test_groups_are_cropped_to_their_common_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "GROUP", 2)
    images = [torch.arange(3 * h * w).view(3, h, w) for h, w in ((4, 8), (6, 5), (2, 2))]
    first, second = group_images(images)
    assert (first.shape, second.shape) == ((2, 3, 4, 5), (1, 3, 2, 2))
    assert torch.equal(first[0], images[0][:, :, 2:7])  # of 3 columns too many 2 on the left: 1.5, rounded
    assert torch.equal(first[1], images[1][:, 1:5])
    assert torch.equal(second[0], images[2])


def test_inputs_have_the_statistics_of_the_card() -> None:
    """255 and 51 are 1 and 0.2: (1 - 0.5) / 0.25 and (0.2 - 0.1) / 0.5."""
    images = torch.tensor([255, 51, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    card = ExportCard(mean=(0.5, 0.1, 0.0), std=(0.25, 0.5, 1.0))
    np.testing.assert_allclose(as_input(images, card).ravel(), [2.0, 0.2, 0.0], atol=1e-6)
    assert as_input(images, replace(card, input="image")).tolist() == [[[[255, 51, 0]]]]


def test_the_first_and_the_last_convolution_of_an_onnx_network_stay_in_float(quantized: Export) -> None:
    path = quantized("onnx")
    import onnx

    graph = onnx.load(path).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    rounded = [made.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    assert rounded == [False, *[True] * (len(rounded) - 2), False]


def test_calibration_images_are_spread_over_the_set(shapes: Path) -> None:
    folder = next(shapes.rglob("JPEGImages"))
    count = len(list(folder.iterdir()))
    assert len(calibration_images(folder, 5, 24)) == 5
    assert {max(image.shape) for image in calibration_images(folder, 5, 24)} == {24}
    assert len(calibration_images(folder, 500, None)) == count


def test_calibration_images_for_a_network_without_a_size_are_reduced(tmp_path: Path) -> None:
    Image.new("RGB", (1500, 900)).save(tmp_path / "large.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "small.png")
    shapes = [tuple(image.shape) for image in calibration_images(tmp_path, 2, None)]
    assert sorted(shapes) == [(3, 30, 40), (3, 307, 512)]
