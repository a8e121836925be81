"""Exported files: they answer as PyTorch does at every size, say what they are, or are not left behind."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import api
from segdistill.config.deploy import ExportConfig, PredictConfig, ServeConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.config.train import TeacherConfig, TrainConfig
from segdistill.config.yaml import load, to_yaml
from segdistill.data.labels import LabelSet
from segdistill.data.transforms import normalise
from segdistill.engine.run_folder import pack, save_student
from segdistill.exporting import export as exporting
from segdistill.exporting import parity
from segdistill.exporting import quantize as quantize
from segdistill.exporting.export import SUFFIXES, calibration_images
from segdistill.exporting.writers import trace
from segdistill.inference.tiles import needs_tiles
from segdistill.models.card import ModelCard
from segdistill.models.exported import ExportCard, ExportedNetwork
from segdistill.models.fused import fuse_for_runtimes
from segdistill.models.student import DSUNet
from segdistill.models.trained import TrainedNetwork, load_network
from segdistill.models.zoo import build_model
from segdistill.serving.service import Service, network_card, open_network

pytestmark = pytest.mark.integration
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch", "executorch": "executorch"}


def trained_student(width: float = 0.1) -> DSUNet:
    """A student whose norms have seen something: fresh ones would hide a norm that is folded wrongly."""
    torch.manual_seed(0)
    student = DSUNet(5, width).train()
    with torch.no_grad():
        for norm in (module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        student(torch.randn(4, 3, 40, 40))
    return student.eval()


@pytest.fixture(scope="session")
def files(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Exports the tiny run once per format."""
    made: dict[str, Path] = {}

    def make(form: str) -> Path:
        pytest.importorskip(PACKAGES[form])
        if form not in made:
            out = tmp_path_factory.mktemp("exports") / f"student{SUFFIXES[form]}"
            api.export(run, ExportConfig(format=form, out=str(out)))  # type: ignore[arg-type]
            made[form] = out
        return made[form]

    return make


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (33, 65), (64, 48)])
def test_the_form_for_runtimes_is_the_same_function(size: tuple[int, int]) -> None:
    student = trained_student().double()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for concatenate in (True, False):
            fused = fuse_for_runtimes(student, concatenate=concatenate)
            torch.testing.assert_close(fused(image), student(image))


@pytest.mark.parametrize("form", PACKAGES)
def test_a_file_answers_as_its_run_does(files: Any, run: Path, form: str) -> None:
    path = files(form)
    student, exported = load_network(str(run)), load_network(str(path))
    for shape in [(1, 1, 1), (2, 7, 5), (3, 33, 65), (1, 64, 64), (1, 97, 128)]:
        pixels = torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(
                exported(normalise(pixels)), student(normalise(pixels)), atol=1e-4, rtol=1e-4
            )
    assert exported.labels == student.labels
    assert (exported.mean, exported.std, exported.size) == (student.mean, student.std, student.size)
    assert exported.fingerprint() != student.fingerprint()


@pytest.mark.parametrize("form", PACKAGES)
def test_what_is_known_lies_beside_the_file(files: Any, run: Path, form: str) -> None:
    path = files(form)
    record = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert (record["file"], record["format"], record["source"]) == (path.name, form, str(run))
    assert record["labels"]["names"] == list(load_network(str(run)).labels.names)
    assert record["parity"]["same_class"] >= 0.999
    assert record["parity"]["logit_difference"] < 1e-4
    assert record["parity"]["images"] == 4
    assert record["parity"]["miou_after"] == pytest.approx(record["parity"]["miou_before"], abs=1e-3)
    written = {part.name for part in path.parent.iterdir()}
    assert written == {path.name, f"{path.name}.json"} | ({"student.bin"} if form == "openvino" else set())
    assert record["bytes"] == sum(
        (path.parent / name).stat().st_size for name in written if not name.endswith(".json")
    )


def test_a_file_is_a_target_like_a_run(files: Any, run: Path, shapes: Path, tmp_path: Path) -> None:
    path = files("onnx")
    data = EvaluationDataConfig(root=str(shapes), workers=0)
    scores = [
        api.evaluate(target, EvaluateConfig(data=data, device="cpu", out=str(tmp_path / "scores.json")))
        for target in (run, path)
    ]
    assert scores[1]["miou"] == pytest.approx(scores[0]["miou"], abs=1e-3)
    photo = next(shapes.rglob("JPEGImages/*.*"))
    (one,), (two,) = (
        [p.mask for _, p in api.predict(t, [photo], PredictConfig(out=str(tmp_path), device="cpu"))]
        for t in (run, path)
    )
    assert np.mean(one == two) > 0.999


def test_masks_and_tensors(run: Path, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "mask.onnx"
    config = ExportConfig(input="tensor", output="mask", out=str(path), images=2)
    record = api.export(run, config)
    assert record["parity"]["logit_difference"] is None
    assert record["parity"]["images"] == 2
    network = ExportedNetwork(path)
    answer = network.run(np.zeros((2, 3, 9, 11), np.float32))
    assert (answer.shape, answer.dtype) == ((2, 9, 11), np.uint8)
    with pytest.raises(ValueError, match="answers with masks, but logits are needed"):
        api.open_teacher(TeacherConfig(spec=str(path)), load_network(str(run)).labels)
    photo = next(shapes.rglob("JPEGImages/*.*"))
    with pytest.raises(ValueError, match="no probabilities"):
        list(api.predict(path, [photo], PredictConfig(probabilities=True, out=str(tmp_path), device="cpu")))


def test_a_file_that_answers_otherwise_is_not_left_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_another(network: TrainedNetwork, *rest: Any, **forms: Any) -> Any:
        other = load_network(str(run))
        torch.nn.init.normal_(other.module.head.weight)  # type: ignore[union-attr, arg-type]
        return trace(other, *rest, **forms)

    trace = exporting.trace
    monkeypatch.setattr(exporting, "trace", export_another)
    with pytest.raises(
        ValueError, match=r"x\.pt2 was not written: it gives .* of the pixels PyTorch's class"
    ):
        api.export(run, ExportConfig(format="pt2", out=str(tmp_path / "new" / "x.pt2")))
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(("form", "package"), [("openvino", "nncf"), ("onnx", "onnxruntime")])
def test_eight_bits_are_measured(run: Path, tmp_path: Path, form: str, package: str) -> None:
    pytest.importorskip(package)
    path = tmp_path / f"small{SUFFIXES[form]}"
    config = ExportConfig(
        format=form, quantize="int8", out=str(path), calibration_images=4, max_loss=100  # type: ignore[arg-type]
    )  # fmt: skip
    record = api.export(run, config)
    assert record["parity"]["miou_before"] is not None
    assert record["parity"]["miou_after"] is not None
    # Eight bits do change the logits, but not beyond what 256 steps of a map explain.
    assert record["parity"]["logit_difference"] > 1e-4
    assert record["parity"]["same_class"] > 0.8


def test_maps_stay_in_eight_bits_from_one_layer_to_the_next(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    import openvino

    path = tmp_path / "small.xml"
    config = ExportConfig(
        format="openvino", quantize="int8", out=str(path), calibration_images=4, images=4, max_loss=100
    )
    api.export(run, config)
    compiled = openvino.compile_model(path, "CPU")
    compiled(np.zeros((1, 64, 64, 3), np.uint8))
    said = [
        (node.rt_info["layerType"].astype(str), node.rt_info["outputPrecisions"].astype(str))
        for node in compiled.get_runtime_model().get_ordered_ops()
        if "outputPrecisions" in node.rt_info
    ]
    enlarged = [precision for layer, precision in said if layer == "Deconvolution"]
    cropped = [precision for layer, precision in said if layer == "StridedSlice"]
    assert enlarged == cropped == ["u8"] * 3


@pytest.mark.parametrize("form", ["run", "openvino"])
def test_half_precision_sees_the_same_classes(form: str, run: Path, files: Any) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not compute in bf16")
    spec = str(run if form == "run" else files(form))
    image = normalise(parity.draw_images(2, 65, 47, torch.Generator().manual_seed(1)))
    plain, half = load_network(spec), load_network(spec, precision="bf16")
    with torch.no_grad():
        expected, found = plain(image), half(image)
    assert found.dtype == torch.float32
    served, _ = open_network(spec, torch.device("cpu"), "bf16")
    with torch.no_grad():
        for answer in (found, served(image)):
            assert 1e-5 < (answer - expected).abs().max() < 0.2
            assert (answer.argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.97


def test_a_shape_that_comes_again_gets_a_graph_of_its_own_with_the_same_answers(
    run: Path, files: Any
) -> None:
    plain, loaded = load_network(str(run)), load_network(str(files("openvino")))
    assert isinstance(loaded.module, ExportedNetwork)
    generator = torch.Generator().manual_seed(1)
    again, other = (normalise(parity.draw_images(*shape, generator)) for shape in ((1, 33, 65), (2, 48, 31)))
    with torch.no_grad():
        for image in (again, again, again, other, again, other, other):
            torch.testing.assert_close(loaded(image), plain(image), atol=1e-4, rtol=1e-4)
    graphs = cast(Any, loaded.module.run)
    assert graphs.own is not graphs.free
    assert graphs.own_shape == (1, 33, 65, 3)


def test_two_openvino_files_share_a_core_that_outlives_them(files: Any) -> None:
    """On a processor with AMX each Core brings a stack for signals, and takes it away when it ends.

    Elsewhere the signals at the end find their stack in any case, and the count of Cores is what fails.
    """
    code = """if True:
        import signal, subprocess, sys, openvino, torch
        counts = {"made": 0, "ended": 0}
        class Core(openvino.Core):
            def __init__(self):
                super().__init__()
                counts["made"] += 1
            def __del__(self):
                counts["ended"] += 1
        openvino.Core = Core
        from segdistill.models.trained import load_network
        signal.signal(signal.SIGCHLD, lambda *_: None)
        opened = [load_network(sys.argv[1]) for _ in range(2)]
        with torch.no_grad():
            assert opened[1](torch.zeros(1, 3, 40, 40)).shape[2:] == (40, 40)
        while opened:
            opened.pop(0)
        assert counts == {"made": 1, "ended": 0}, counts
        subprocess.run(["true"], check=True)
        subprocess.run(["true"], check=True)
    """
    subprocess.run([sys.executable, "-c", code, str(files("openvino"))], check=True)


def test_groups_are_cut_to_their_common_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "GROUP", 2)
    images = [torch.arange(3 * h * w).view(3, h, w) for h, w in ((4, 8), (6, 5), (2, 2))]
    first, second = quantize.groups(images)
    assert (first.shape, second.shape) == ((2, 3, 4, 5), (1, 3, 2, 2))
    assert torch.equal(first[0], images[0][:, :, 2:7])  # of 3 columns too many 2 on the left: 1.5, rounded
    assert torch.equal(first[1], images[1][:, 1:5])
    assert torch.equal(second[0], images[2])


def test_the_first_and_the_last_convolution_of_an_onnx_network_stay_in_float(
    run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    import onnx

    path = tmp_path / "x.onnx"
    api.export(run, ExportConfig(quantize="int8", out=str(path), calibration_images=2, max_loss=100))
    graph = onnx.load(path).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    rounded = [made.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    assert rounded == [False, *[True] * (len(rounded) - 2), False]


@pytest.mark.parametrize(
    ("spec", "package", "form"),
    [
        ("smp:Unet/resnet18", "segmentation_models_pytorch", "openvino"),
        ("lraspp_mobilenet_v3_large", "torchvision", "onnx"),
    ],
)
def test_other_students_are_exported_too(tmp_path: Path, spec: str, package: str, form: str) -> None:
    pytest.importorskip(package)
    pytest.importorskip(PACKAGES[form])
    torch.manual_seed(0)
    network, labels = build_model(spec, 5), LabelSet(names=tuple("abcde"))
    card = ModelCard(spec=spec, width=1.0, labels=labels, size=64, evaluate_size=64)
    (tmp_path / "run").mkdir()
    save_student(tmp_path / "run", network.eval(), card)
    out = tmp_path / f"other{SUFFIXES[form]}"
    record = api.export(tmp_path / "run", ExportConfig(format=form, out=str(out)))  # type: ignore[arg-type]
    assert record["parity"]["same_class"] >= 0.999


def test_what_a_converter_cannot_write_is_said_with_what_to_try(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Summary:\n-- No conversion rule found for operations: mod")

    monkeypatch.setitem(exporting.WRITERS, "pt2", fail)
    with pytest.raises(
        ValueError,
        match=r"cannot be written as pt2: Summary: -- No conv.*: mod; try --format onnx, --format op",
    ):
        api.export(run, ExportConfig(format="pt2", out=str(tmp_path / "x.pt2")))
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_that_lose_too_much_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    scores = iter([0.60, 0.58])
    monkeypatch.setattr(exporting, "mean_iou", lambda *_: next(scores))
    config = ExportConfig(
        format="openvino", quantize="int8", out=str(tmp_path / "x.xml"), calibration_images=1
    )
    with pytest.raises(ValueError, match=r"from 0\.6000 to 0\.5800, more than 1\.0 points"):
        api.export(run, config)
    assert list(tmp_path.iterdir()) == []


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


def test_a_name_like_a_pattern_is_a_name(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "student[1].pt2"
    record = api.export(run, ExportConfig(format="pt2", out=str(path), images=2))
    assert path.stat().st_size == record["bytes"] > 0


@pytest.mark.parametrize(
    ("form", "eight_bits", "count"),
    [("openvino", False, 0), ("onnx", False, 0), ("openvino", True, 3), ("executorch", False, 3)],
)
def test_the_decoder_concatenates_only_where_that_is_faster(form: str, eight_bits: bool, count: int) -> None:
    network = TrainedNetwork(trained_student(), LabelSet(names=tuple("abcde")), "student")
    program = trace(network, ExportCard(labels=network.labels), form, eight_bits=eight_bits)
    assert sum(node.target is torch.ops.aten.cat.default for node in program.graph.nodes) == count


def test_sizes_that_the_network_itself_refuses_are_left_out() -> None:
    class Padded(torch.nn.Conv2d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.nn.functional.pad(image, (3, 3, 3, 3), mode="reflect"))

    network = TrainedNetwork(Padded(3, 2, 7), LabelSet(names=("a", "b")), "padded")
    assert parity.compare(network, network)["sizes"] == [[7, 5], [33, 65], [64, 64], [97, 128]]
    never = TrainedNetwork(torch.nn.Conv2d(4, 2, 1), LabelSet(names=("a", "b")), "never")
    with pytest.raises(ValueError, match="never cannot be run on any"):
        parity.compare(never, network)


def test_a_file_says_how_large_an_image_it_takes(run: Path, files: Any, tmp_path: Path) -> None:
    network = load_network(str(files("executorch")))
    assert network.largest_side == 512
    assert load_network(str(run)).largest_side is None
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 512, 40)).shape[2:] == (512, 40)
        for shape in ((1, 3, 513, 513), (2, 3, 512, 512)):
            with pytest.raises(ValueError, match="it takes 1 of 512x512 pixels, or what needs no more"):
                network(torch.zeros(shape))
    network.size = None  # as of a run that says none: images are cut to what the file takes
    Image.new("RGB", (600, 40)).save(tmp_path / "wide.png")
    assert needs_tiles(tmp_path / "wide.png", network, PredictConfig())
    with pytest.raises(ValueError, match="takes no image of 600 pixels: serve it with --size 512"):
        Service(network, network_card(network), ServeConfig(size=600), torch.device("cpu"))
    with Service(network, network_card(network), ServeConfig(), torch.device("cpu")) as service:
        assert service.max_side == 512


def test_drawn_images_are_the_same_each_time_and_not_grey() -> None:
    one, two = (parity.draw_images(2, 33, 65, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (2, 3, 33, 65)
    assert one.float().std() > 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pt2", "quantize": "int8"}, "quantize is 'int8', but must be null for pt2"),
        ({"images": -1}, "images is -1"),
        ({"same_class": 1.5}, r"same_class is 1\.5"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportConfig(**changes)


def test_a_packed_student_says_which_images_it_wants(
    run: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    packed, out = pack(run, tmp_path / "packed"), str(tmp_path / "x.onnx")
    settings = load(TrainConfig, packed / "config.yaml")
    (packed / "config.yaml").write_text(
        to_yaml(replace(settings, data=replace(settings.data, root=str(tmp_path / "elsewhere"))))
    )
    data = EvaluationDataConfig(root=str(shapes), workers=0)
    photos = str(next(shapes.rglob("JPEGImages")))
    with pytest.raises(
        ValueError, match=r"brings no images \(.*elsewhere.*name some that have .*--data\.root"
    ):
        api.export(packed, ExportConfig(quantize="int8", out=out, calibration=photos))
    with pytest.raises(ValueError, match=r"no images to calibrate on \(.*elsewhere.*with --calibration"):
        api.export(packed, ExportConfig(quantize="int8", out=out, data=data))
    config = ExportConfig(
        quantize="int8", out=out, data=data, calibration=photos, calibration_images=2, max_loss=100
    )
    assert api.export(packed, config)["parity"]["images"] == 4


def test_wrong_names_and_targets(run: Path, tmp_path: Path, files: Any) -> None:
    with pytest.raises(ValueError, match=r"but onnx files end with \.onnx"):
        api.export(run, ExportConfig(out=str(tmp_path / "student.xml")))
    with pytest.raises(ValueError, match="is not a network that PyTorch runs"):
        api.export(files("onnx"), ExportConfig(out=str(tmp_path / "again.onnx")))
    with pytest.raises(ValueError, match="computes as it was exported, not in bf16"):
        ExportedNetwork(files("onnx"), precision="bf16")


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".xml", "an OpenVINO"), (".pt2", "a torch.export"), (".pte", "an Exec")]
)
def test_broken_files_are_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    pytest.importorskip(PACKAGES[{".xml": "openvino", ".pt2": "pt2", ".pte": "executorch"}[suffix]])
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"broken{suffix} is not {kind}"):
        ExportedNetwork(path)
