"""Exported files compute what PyTorch does at every size and describe themselves, or are not left behind."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from segdistill import api
from segdistill.build import open_teacher
from segdistill.config.architecture import Architecture
from segdistill.config.deploy import ExportConfig, LoadConfig, PredictConfig, ServeConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.config.train import TeacherConfig
from segdistill.data.datasets import open_dataset
from segdistill.data.labels import LabelSet
from segdistill.data.transforms import normalise
from segdistill.engine.run_folder import RunFolder
from segdistill.exporting import export as exporting
from segdistill.exporting import parity
from segdistill.exporting.export import require_parity
from segdistill.exporting.quantize import calibration_images
from segdistill.inference.tiles import needs_tiles
from segdistill.models.card import ModelCard
from segdistill.models.exported import ExportedNetwork
from segdistill.models.file_formats import FORMATS
from segdistill.models.fused import fuse_students
from segdistill.models.openvino_graphs import openvino_core
from segdistill.models.trained import LoadOptions, load_network
from segdistill.models.zoo import build_model
from segdistill.predicting import open_predictor
from segdistill.serving.service import Service, network_card

pytestmark = pytest.mark.integration
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch", "executorch": "executorch"}

Export = Callable[[str], Path]


@pytest.mark.parametrize("form", PACKAGES)
def test_a_file_computes_what_its_run_does(exported: Export, run: Path, form: str) -> None:
    student, network = load_network(str(run)), load_network(str(exported(form)))
    for shape in [(2, 7, 5), (1, 97, 128)]:  # the others are in the record that the next test reads
        pixels = torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(
                network(normalise(pixels)), student(normalise(pixels)), atol=1e-4, rtol=1e-4
            )
    assert network.labels == student.labels
    assert (network.mean, network.std, network.size) == (student.mean, student.std, student.size)
    assert network.fingerprint() != student.fingerprint()


@pytest.mark.parametrize("form", PACKAGES)
def test_the_record_lies_beside_the_file(exported: Export, run: Path, form: str) -> None:
    path = exported(form)
    record = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert (record["file"], record["format"], record["source"]) == (path.name, form, run.name)
    assert record["labels"]["names"] == list(load_network(str(run)).labels.names)
    assert record["parity"]["same_class"] >= 0.999
    assert record["parity"]["logit_difference"] < 1e-4
    assert record["parity"]["images"] == 4
    assert record["parity"]["miou_after"] == pytest.approx(record["parity"]["miou_before"], abs=1e-3)
    written = {part.name for part in path.parent.iterdir()}
    assert written == {path.name, f"{path.name}.json"} | ({"student[1].bin"} if form == "openvino" else set())
    sizes = [file.stat().st_size for file in path.parent.iterdir() if file.suffix != ".json"]
    assert record["bytes"] == sum(sizes) > 0


def test_a_file_is_a_target_like_a_run(exported: Export, run: Path, shapes: Path, tmp_path: Path) -> None:
    path = exported("onnx")
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


@pytest.mark.parametrize("form", PACKAGES)
def test_a_file_is_loaded_like_a_run(form: str, exported: Export, run: Path, shapes: Path) -> None:
    photo = next(shapes.rglob("JPEGImages/*.*"))
    one, two = (api.load(target, LoadConfig(device="cpu"))(photo) for target in (run, exported(form)))
    assert (one.mask == two.mask).mean() > 0.999
    assert two.shares == pytest.approx(one.shares, abs=1e-3)


def test_a_file_keeps_the_output_stride(tmp_path: Path) -> None:
    code = tmp_path / "deep.py"
    code.write_text(
        "from torch import nn\ndef build():\n    net = nn.Conv2d(3, 21, 5, padding=2)\n"
        "    net.output_stride = 16\n    return net\n"
    )
    record = api.export(f"{code}:build", ExportConfig(format="pt2", out=str(tmp_path / "deep.pt2")))
    assert record["output_stride"] == 16
    assert load_network(str(tmp_path / "deep.pt2")).output_stride == 16


def test_masks_and_tensors(run: Path, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "mask.onnx"
    config = ExportConfig(input="tensor", output="mask", out=str(path), images=2)
    record = api.export(run, config)
    assert record["parity"]["logit_difference"] is None
    assert record["parity"]["images"] == 2
    network = ExportedNetwork(path)
    output = network.run(np.zeros((2, 3, 9, 11), np.float32))
    assert (output.shape, output.dtype) == ((2, 9, 11), np.uint8)
    with pytest.raises(ValueError, match="gives masks, but logits are needed"):
        open_teacher(TeacherConfig(spec=str(path)), load_network(str(run)).labels)
    photo = next(shapes.rglob("JPEGImages/*.*"))
    with pytest.raises(ValueError, match="no probabilities"):
        list(api.predict(path, [photo], PredictConfig(probabilities=True, out=str(tmp_path), device="cpu")))


def test_float16_halves_the_file_and_keeps_the_classes(run: Path, exported: Export, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    record = api.export(run, ExportConfig(quantize="float16", images=2, out=str(path)))
    assert record["parity"]["same_class"] >= 0.999
    assert 1e-7 < record["parity"]["logit_difference"] < 0.05
    weights = [sum(map(len, stored(file))) for file in (path, exported("onnx"))]
    assert weights[0] < 0.55 * weights[1]


def stored(path: Path) -> list[bytes]:
    """The weights of an ONNX file."""
    return [weight.raw_data for weight in pytest.importorskip("onnx").load(path).graph.initializer]


def test_a_file_that_computes_something_else_is_not_left_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_network(str(run))
    torch.nn.init.normal_(other.module.head.weight)  # type: ignore[union-attr, arg-type]
    monkeypatch.setitem(exporting.WRITERS, "pt2", lambda program, path, card: path.write_bytes(b"other"))
    monkeypatch.setattr(exporting, "load_network", lambda path, options: other)
    with pytest.raises(ValueError, match=r"x\.pt2 was not written: .* of the pixels have PyTorch's class"):
        api.export(run, ExportConfig(format="pt2", out=str(tmp_path / "new" / "x.pt2")))
    assert list((tmp_path / "new").iterdir()) == []


def test_an_export_says_what_it_does(
    run: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(parity, "SIZES", ((33, 65),))
    monkeypatch.setattr("segdistill.console.LINE_SECONDS", 0)
    path = tmp_path / "small.pt2"
    data = EvaluationDataConfig(root=str(shapes), workers=0)
    api.export(run, ExportConfig(format="pt2", out=str(path), data=data, images=2))
    lines = [line.split(", ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines[:-1] == [
        f"Exporting {run} as pt2 into {path}",
        "Writing small.pt2",
        "Comparing it with PyTorch on 2 images",
        "compare: 1 of 2",
        "compare: 2 of 2",
        "Comparing it with PyTorch on drawn images",
        str(path),
        f"Writing the certificate {path}.certificate.json: intervals of the scores",
    ]
    assert lines[-1].startswith(f"{path}.certificate.json: ")


@pytest.mark.parametrize("form", ["run", "openvino"])
def test_half_precision_gives_the_same_classes(form: str, run: Path, exported: Export) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not compute in bf16")
    spec = str(run if form == "run" else exported(form))
    image = normalise(parity.draw_images(2, 65, 47, torch.Generator().manual_seed(1)))
    plain, half = load_network(spec), load_network(spec, LoadOptions(precision="bf16"))
    with torch.no_grad():
        expected, found = plain(image), half(image)
    assert found.dtype == torch.float32
    served = fuse_students(open_predictor(spec, ServeConfig(precision="bf16"), torch.device("cpu")))
    with torch.no_grad():
        for logits in (found, served(image)):
            assert 1e-5 < (logits - expected).abs().max() < 0.2
            assert (logits.argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.97


def test_a_shape_that_comes_again_gets_a_graph_of_its_own_with_the_same_outputs(
    run: Path, exported: Export
) -> None:
    plain, loaded = load_network(str(run)), load_network(str(exported("openvino")))
    assert isinstance(loaded.module, ExportedNetwork)
    generator = torch.Generator().manual_seed(1)
    again, other = (normalise(parity.draw_images(*shape, generator)) for shape in ((1, 33, 65), (2, 48, 31)))
    with torch.no_grad():
        for image in (again, again, again, other, again, other, other):
            torch.testing.assert_close(loaded(image), plain(image), atol=1e-4, rtol=1e-4)
    graphs = cast(Any, loaded.module.runs[1])
    assert graphs.own is not graphs.free
    assert graphs.own_shape == (1, 33, 65, 3)


def test_two_openvino_files_share_a_core_that_outlives_them(exported: Export) -> None:
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
    subprocess.run([sys.executable, "-c", code, str(exported("openvino"))], check=True)


@pytest.mark.parametrize(
    ("network", "package", "form"),
    [
        (Architecture(spec="smp:Unet/resnet18"), "segmentation_models_pytorch", "onnx"),
        (Architecture(spec="lraspp_mobilenet_v3_large"), "torchvision", "openvino"),
        (Architecture(spec="timm:tf_mobilenetv3_small_minimal_100", channels=8), "timm", "onnx"),
        (Architecture(spec="timm:lcnet_035", decoder="deeplab", channels=8), "timm", "openvino"),
        (Architecture(spec="timm:lcnet_035", decoder="lraspp", channels=8), "timm", "executorch"),
        (Architecture(width=0.1, stride=2), "torch", "pt2"),
    ],
)
def test_other_students_are_exported_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Architecture, package: str, form: str
) -> None:
    pytest.importorskip(package)
    pytest.importorskip(PACKAGES[form])
    monkeypatch.setattr(parity, "SIZES", ((33, 65), (64, 64)))
    monkeypatch.setattr(parity, "BATCHES", (1,) if form == "executorch" else (3,))
    torch.manual_seed(0)
    card = ModelCard(
        **vars(network), labels=LabelSet(names=tuple("abcde")), size=64, evaluate_size=64,
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4),
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").save_student(build_model(network, 5).eval(), card)
    out = tmp_path / f"other{FORMATS[form].suffix}"
    record = api.export(tmp_path / "run", ExportConfig(format=form, out=str(out)))  # type: ignore[arg-type]
    assert record["parity"]["same_class"] >= 0.999
    assert load_network(str(out)).mean == (0.5, 0.4, 0.3)


def test_an_error_of_a_converter_names_what_to_try(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Summary:\n-- No conversion rule found for operations: mod")

    monkeypatch.setitem(exporting.WRITERS, "pt2", fail)
    with pytest.raises(
        ValueError,
        match=r"cannot be written as pt2: Summary: -- No conv.*: mod; try format onnx, format op",
    ):
        api.export(run, ExportConfig(format="pt2", out=str(tmp_path / "x.pt2")))
    assert list(tmp_path.iterdir()) == []


def test_int8_that_loses_too_much_is_refused() -> None:
    config, path = ExportConfig(format="openvino", quantize="int8", max_loss=1.0), Path("x.xml")
    scores = {"same_class": 0.9, "miou_before": 0.60, "miou_after": 0.58}
    with pytest.raises(ValueError, match=r"from 0\.6000 to 0\.5800, more than 1\.0 points"):
        require_parity(scores, config, path)
    require_parity(scores | {"miou_after": 0.595}, config, path)
    unscored = scores | {"miou_before": None, "miou_after": None}
    with pytest.raises(ValueError, match=r"int8 gives 89\.00% of the pixels .*must give 90%: .*data\.root"):
        require_parity(unscored | {"calibration_pixels": 0.89}, config, path)
    require_parity(unscored | {"calibration_pixels": 0.91}, config, path)
    with pytest.raises(ValueError, match=r"int8 gives 89\.00% of the pixels of drawn images PyTorch's class"):
        require_parity(unscored | {"same_class": 0.89}, config, path)


def test_a_file_limits_the_size_of_its_images(run: Path, exported: Export) -> None:
    network = load_network(str(exported("executorch")))
    assert network.largest_side == 512
    assert load_network(str(run)).largest_side is None
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 512, 40)).shape[2:] == (512, 40)
        for shape in ((1, 3, 513, 513), (2, 3, 512, 512)):
            with pytest.raises(ValueError, match="it takes 1 of 512x512 pixels, or what needs no more"):
                network(torch.zeros(shape))
    network.size = None  # as of a run without one: images are cut to what the file takes
    assert needs_tiles((600, 40), network, PredictConfig())
    with pytest.raises(ValueError, match="takes no image of 600 pixels: serve it with size 512"):
        Service(network, network_card(network), ServeConfig(size=600), torch.device("cpu"))
    with Service(network, network_card(network), ServeConfig(), torch.device("cpu")) as service:
        assert service.max_side == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": -1}, "images is -1"),
        ({"same_class": 1.5}, r"same_class is 1\.5"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportConfig(**changes)


def test_a_packed_student_needs_images_for_int8(
    packed: Path, shapes: Path, quantized: Export, tmp_path: Path
) -> None:
    out = str(tmp_path / "x.onnx")
    data = EvaluationDataConfig(root=str(shapes), workers=0)
    with pytest.raises(ValueError, match=r"no images to calibrate on \(.*elsewhere.*with calibration"):
        api.export(packed, ExportConfig(quantize="int8", out=out, data=data))
    record = json.loads(quantized("onnx").with_suffix(".onnx.json").read_text())
    assert record["parity"]["images"] == 4


def test_a_packed_student_may_bring_images_for_int8(
    packed: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    folder = shutil.copytree(packed, tmp_path / "with images")
    shutil.copytree(next(shapes.rglob("JPEGImages")), folder / "calibration")
    out = tmp_path / "x.onnx"
    parity = api.export(folder, ExportConfig(quantize="int8", out=str(out), calibration_images=4))["parity"]
    images = calibration_images(folder / "calibration", 4, load_network(str(folder)).size)
    with torch.no_grad():
        same = [
            (one.argmax(dim=1) == two.argmax(dim=1)).flatten()
            for image in images
            for one, two in [[load_network(str(f))(normalise(image[None])) for f in (folder, out)]]
        ]
    assert parity["calibration_pixels"] == pytest.approx(float(torch.cat(same).float().mean()))
    assert parity["miou_after"] is None
    assert "of the pixels of the calibration images have PyTorch's class in int8" in capsys.readouterr().err


def test_wrong_names_and_targets(run: Path, tmp_path: Path, exported: Export) -> None:
    with pytest.raises(
        ValueError, match="quantize is 'int8', but must be null for pt2: onnx, openvino, litert and web"
    ):
        api.export(run, ExportConfig(format="pt2", quantize="int8", out=str(tmp_path / "x.pt2")))
    with pytest.raises(ValueError, match="for ncnn: onnx, openvino, pt2, executorch, litert have masks"):
        api.export(run, ExportConfig(format="ncnn", output="mask", out=str(tmp_path / "x.ncnn.param")))
    with pytest.raises(ValueError, match=r"but onnx files end with \.onnx"):
        api.export(run, ExportConfig(out=str(tmp_path / "student.xml")))
    with pytest.raises(ValueError, match="is not a network that PyTorch runs"):
        api.export(exported("onnx"), ExportConfig(out=str(tmp_path / "again.onnx")))
    with pytest.raises(ValueError, match="computes as it was exported, not in bf16"):
        ExportedNetwork(exported("onnx"), precision="bf16")


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".xml", "an OpenVINO"), (".pt2", "a torch.export"), (".pte", "an Exec")]
)
def test_broken_files_are_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    pytest.importorskip(PACKAGES[{".xml": "openvino", ".pt2": "pt2", ".pte": "executorch"}[suffix]])
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"broken{suffix} is not {kind}"):
        ExportedNetwork(path)


def test_quantizing_for_openvino_makes_no_further_core(run: Path, tmp_path: Path) -> None:
    """NNCF makes and drops Cores, which is what the test above is about."""
    code = """if True:
        import subprocess, sys, openvino
        made = []
        class Core(openvino.Core):
            def __init__(self):
                super().__init__()
                made.append(self)
        openvino.Core = Core
        import segdistill
        config = segdistill.ExportConfig(
            format="openvino", quantize="int8", out=sys.argv[2], calibration_images=8, max_loss=100.0
        )
        segdistill.export(sys.argv[1], config)
        assert len(made) == 1, made
        assert openvino.Core is Core
        subprocess.run(["true"], check=True)
    """
    subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path / "student.xml")], check=True)


def made_by(value: Any) -> str:
    """The type of the operator that computes an input of another one, which may be reshaped on its way."""
    node = value.get_node()
    while node.get_type_name() in {"Reshape", "Broadcast"}:
        node = node.input_value(0).get_node()
    return str(node.get_type_name())


def test_depthwise_convolutions_after_pointwise_ones_stay_in_float(shapes: Path, tmp_path: Path) -> None:
    """OpenVINO's int8 kernel for the two together killed the process on maps of 2 x 2 pixels."""
    labels = open_dataset(shapes, "val").labels
    torch.manual_seed(0)
    network = build_model(Architecture(spec="timm:mobilenetv2_050", decoder="deeplab"), len(labels)).eval()
    card = ModelCard(spec="timm:mobilenetv2_050", decoder="deeplab", labels=labels, size=32, evaluate_size=32)
    folder, file = tmp_path / "run", tmp_path / "student.xml"
    folder.mkdir()
    RunFolder(folder).save_student(network, card)
    config = ExportConfig(
        format="openvino", quantize="int8", out=str(file), max_loss=100.0, calibration_images=8,
        calibration=str(shapes), data=EvaluationDataConfig(root=str(shapes)),
    )  # fmt: skip
    api.export(str(folder), config)  # runs it on drawn images of 1 x 1 pixel, and more
    operators = openvino_core().read_model(file).get_ordered_ops()
    quantized = [
        node.get_type_name() for node in operators
        if node.get_type_name() in {"Convolution", "GroupConvolution"}
        and node.input_value(0).get_node().get_type_name() == "FakeQuantize"
    ]  # fmt: skip
    assert quantized.count("Convolution") > 20
    assert quantized.count("GroupConvolution") == 1  # the first block's, which no pointwise one precedes
    upsampling = [node for node in operators if node.get_type_name() == "MatMul"]  # of the logits
    assert len(upsampling) == 2
    assert "FakeQuantize" not in {made_by(value) for node in upsampling for value in node.input_values()}
