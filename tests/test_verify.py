"""`segdistill verify`, as a user types it."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from segdistill import api, cli
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.engine.bootstrap import Interval
from segdistill.exporting import parity
from segdistill.rechecking import read_certificate
from segdistill.verification import is_shown

pytestmark = pytest.mark.integration


def command(capsys: Any, *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON line and standard error of `segdistill verify`."""
    code = cli.main(["verify", *map(str, arguments), "--data.workers", "0", "--device", "cpu"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, " ".join(err.split())


@pytest.fixture(scope="module")
def certified(run: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with student.pt2 and the certificate that its export wrote beside it."""
    folder = tmp_path_factory.mktemp("certified")
    data = EvaluationDataConfig(root=str(shapes), workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "SIZES", ((33, 65),))
        config = ExportConfig(format="pt2", out=str(folder / "student.pt2"), data=data, images=3)
        api.export(run, config)
    return folder


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Networks that call everything background, or all but the upper eight rows, or all the last class."""
    file = tmp_path_factory.mktemp("networks") / "painted.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Ground(nn.Module):\n"
        "    def forward(self, x):\n        logits = torch.zeros(len(x), 9, *x.shape[2:])\n"
        "        logits[:, 0] = 1\n        return logits\n\n\n"
        "class Painted(Ground):\n    def forward(self, x):\n        logits = super().forward(x)\n"
        "        logits[:, :, :8] = logits[:, :, :8].flip(1)\n        return logits\n\n\n"
        "class Last(Ground):\n    def forward(self, x):\n        return super().forward(x).flip(1)\n"
    )
    return str(file)


def test_export_certifies_what_it_evaluates(certified: Path, run: Path, tmp_path: Path) -> None:
    record = json.loads((certified / "student.pt2.json").read_text())
    certificate = json.loads((certified / "student.pt2.certificate.json").read_text())
    against, target = certificate["networks"]
    assert (against["target"], target["target"]) == (str(run), str(certified / "student.pt2"))
    assert against["miou"]["value"] == pytest.approx(record["parity"]["miou_before"], abs=1e-12)
    assert target["miou"]["value"] == pytest.approx(record["parity"]["miou_after"], abs=1e-12)
    assert certificate["equal_pixels"] == record["parity"]["equal_pixels"] > 0.999
    assert 0 < certificate["largest_deviation"] < 1e-4
    assert certificate["verdict"]["shown"]
    assert certificate["image_count"] == 3
    assert target["sha256"].keys() == {"student.pt2"}
    assert target["latency"]["median_ms"] > 0
    page = (certified / "student.pt2.certificate.html").read_text()
    assert certificate["data_sha256"] in page
    assert "http:" not in page
    assert "https:" not in page


def test_two_networks_are_scored_as_evaluate_scores_them(
    capsys: Any, painted: str, shapes: Path, tmp_path: Path
) -> None:
    out, specs = tmp_path / "certificate.json", [f"{painted}:Ground", f"{painted}:Painted"]
    data = EvaluationDataConfig(root=str(shapes), workers=0)
    given = ["--data.root", shapes, "--max_loss", "100", "--repeats", "1", "--out", out]
    code, record, err = command(capsys, specs[1], "--against", specs[0], *given)
    assert code == 0, err
    assert json.loads(out.read_text()) | {"out": str(out), "problems": 0} == record
    values = []
    for index, (network, spec) in enumerate(zip(record["networks"], specs, strict=True)):
        config = EvaluateConfig(data=data, out=str(tmp_path / "scores.json"), device="cpu")
        summary = api.evaluate(spec, config)
        values.append(summary["miou"])
        assert network["target"] == spec
        assert network["miou"]["value"] == pytest.approx(summary["miou"], abs=1e-12)
        assert network["sha256"].keys() == {"weights"}
        by_class = {name: found["networks"][index]["value"] for name, found in record["iou"].items()}
        assert by_class == pytest.approx(summary["iou"], abs=1e-12)
    [difference] = record["differences"]
    assert difference["baseline"] == specs[0]
    assert difference["miou"]["value"] == pytest.approx(values[1] - values[0], abs=1e-12)
    # `Painted` differs in the eight upper rows of 48, on all images alike.
    assert record["equal_pixels"] == pytest.approx(40 / 48, abs=1e-12)
    assert [image["equal_pixels"] for image in record["worst"]] == [pytest.approx(40 / 48)] * 4
    e = math.e
    assert record["largest_deviation"] == pytest.approx(e / (8 + e) - 1 / (8 + e), abs=1e-6)
    assert "83.333% of the pixels are equal" in err
    page = out.with_suffix(".html").read_text()
    for image in record["worst"]:
        assert f"difference of {image['id']}" in page


def test_the_verdict_decides_the_exit_code(capsys: Any, painted: str, shapes: Path, tmp_path: Path) -> None:
    specs = [f"{painted}:Ground", f"{painted}:Last"]
    given = ["--data.root", shapes, "--repeats", "0", "--out", tmp_path / "certificate.json"]
    code, record, err = command(capsys, specs[1], "--against", specs[0], *given)
    assert record["differences"][0]["miou"]["high"] < -0.01
    assert (code, record["verdict"]["shown"], record["problems"]) == (1, False, 1)
    assert f"Verdict: not shown: {specs[1]} loses more than 1 point of mean IoU against {specs[0]}" in err
    assert record["networks"][0]["latency"] is None
    assert "It was not measured" in (tmp_path / "certificate.html").read_text()
    code, record, err = command(capsys, specs[0], "--against", specs[1], *given)
    assert (code, record["verdict"]["shown"]) == (0, True)
    assert record["differences"][0]["miou"]["low"] > 0.01


def test_the_whole_interval_decides() -> None:
    interval = Interval(value=-0.002, low=-0.009, high=0.004)
    assert is_shown(interval, 1.0)
    assert not is_shown(interval, 0.8)
    assert not is_shown(Interval(value=None, low=None, high=None), 1.0)


def test_a_certificate_is_run_again(capsys: Any, certified: Path, run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(certified, tmp_path / "moved")
    before = sorted(path.name for path in moved.iterdir())
    code, found, err = command(capsys, "--certificate", moved / "student.pt2.certificate.json")
    assert code == 0, err
    assert (found["mismatches"], found["problems"]) == ([], 0)
    assert all(network["then"] == pytest.approx(network["now"]) for network in found["networks"])
    assert f"Comparing {certified / 'student.pt2'} with {run} again on 3 images" in err
    assert "Reproduced: same data, same files, same scores" in err
    assert sorted(path.name for path in moved.iterdir()) == before


def test_a_certificate_of_something_else_is_one_clear_line(
    capsys: Any, certified: Path, copied: Path, run: Path, tmp_path: Path
) -> None:
    certificate = certified / "student.pt2.certificate.json"
    first, *rest = sorted(copied.rglob("SegmentationClass/*.png"))
    for path in rest:
        shutil.copy(first, path)
    code, _, err = command(capsys, "--certificate", certificate, "--data.root", copied)
    assert code == 1
    assert "is about other data: 3 images with SHA-256 " in err
    code, _, err = command(capsys, run, "--certificate", certificate)
    assert code == 1
    assert f"is about another {run}: student.pt2 had the SHA-256" in err
    code, _, err = command(capsys, "--certificate", certified / "student.pt2.json")
    assert code == 1
    assert "is no certificate of `segdistill verify`" in err


def test_a_certificate_of_two_files_is_not_about_a_run(
    capsys: Any, certified: Path, run: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(certified, tmp_path / "moved") / "student.pt2.certificate.json"
    content = json.loads(moved.read_text())
    content["networks"][1]["sha256"] = {"student.xml": "0" * 64, "student.bin": "0" * 64}
    moved.write_text(json.dumps(content))
    code, _, err = command(capsys, run, "--certificate", moved)
    assert code == 1
    assert f"is about another {run}: it was student.xml and student.bin, but is model.safetensors now" in err


@pytest.mark.parametrize("missing", ["networks", "data_sha256", "equal_pixels", "verdict", "settings"])
def test_a_damaged_certificate_is_one_clear_line(certified: Path, tmp_path: Path, missing: str) -> None:
    content = json.loads((certified / "student.pt2.certificate.json").read_text())
    damaged = tmp_path / "damaged.json"
    damaged.write_text(json.dumps({key: value for key, value in content.items() if key != missing}))
    with pytest.raises(
        ValueError, match=rf"damaged\.json is damaged \(KeyError: '{missing}'\): copy it again"
    ):
        read_certificate(damaged)
    del content["networks"][0]["miou"]["value"]
    damaged.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"damaged\.json is damaged \(KeyError: 'value'\)"):
        read_certificate(damaged)
    damaged.write_text(json.dumps(content)[:-9])
    with pytest.raises(ValueError, match=r"damaged\.json is not valid JSON: .* copy it again"):
        read_certificate(damaged)


def test_scores_that_are_not_reproduced_are_named(capsys: Any, certified: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(certified, tmp_path / "moved") / "student.pt2.certificate.json"
    content = json.loads(moved.read_text())
    content["networks"][1]["miou"]["value"] += 0.01
    moved.write_text(json.dumps(content))
    code, found, err = command(capsys, "--certificate", moved)
    assert code == 1
    [mismatch] = found["mismatches"]
    assert mismatch.startswith("mean IoU of ")
    assert "Not reproduced" in err


def test_code_that_a_certificate_names_is_not_run(capsys: Any, certified: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(certified, tmp_path / "moved") / "student.pt2.certificate.json"
    content = json.loads(moved.read_text())
    content["networks"][1]["target"] = f"{tmp_path}/evil.py:build"
    moved.write_text(json.dumps(content))
    code, _, err = command(capsys, "--certificate", moved)
    assert code == 1
    assert "whose code would run with your rights" in err


def test_what_is_missing_is_named(capsys: Any, run: Path) -> None:
    code, _, err = command(capsys, run)
    assert code == 1
    assert "verify takes a network and what it is compared with, FILE --against RUN" in err
    code, _, err = command(capsys, run, "--against", "runs/typo")
    assert code == 1
    assert "runs/typo does not exist" in err
