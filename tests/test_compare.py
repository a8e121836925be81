"""`segdistill compare`, as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest

from segdistill import api, cli
from segdistill.config.evaluate import CompareConfig, EvaluateConfig, EvaluationDataConfig

pytestmark = pytest.mark.integration


def answer(capsys: Any, *arguments: object) -> tuple[dict[str, Any], str]:
    """Run a command that must succeed; returns its JSON line and standard error."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert len(out.splitlines()) == 1
    return json.loads(out), " ".join(err.split())


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Networks that call everything background, or the last class, and one of other classes."""
    file = tmp_path_factory.mktemp("networks") / "ground.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Ground(nn.Module):\n"
        "    def forward(self, x):\n        logits = torch.zeros(len(x), 9, *x.shape[2:])\n"
        "        logits[:, 0] = 1\n        return logits\n\n\n"
        "class Last(Ground):\n    def forward(self, x):\n        return super().forward(x).flip(1)\n\n\n"
        "class Other(Ground):\n    labels = ['background', *'abcdefgh']\n"
    )
    return str(file)


def test_two_runs_are_compared_on_the_first_ones_images(
    capsys: Any, run: Path, distilled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "comparison.json"
    record, err = answer(capsys, "compare", run, distilled, "--classes", "background,disk", "--out", out)
    assert json.loads(out.read_text()) | {"out": str(out)} == record
    first, second = (
        api.evaluate(target, EvaluateConfig(out=str(tmp_path / "scores.json"))) for target in (run, distilled)
    )
    for network, summary in zip(record["networks"], (first, second), strict=True):
        for name in ("miou", "pixel_accuracy"):
            interval = network[name]
            assert interval["value"] == pytest.approx(summary[name], abs=1e-12)
            assert interval["low"] <= interval["value"] <= interval["high"]
    [difference] = record["differences"]
    assert (difference["target"], difference["baseline"]) == (str(distilled), str(run))
    assert difference["miou"]["value"] == pytest.approx(second["miou"] - first["miou"], abs=1e-12)
    for name in ("miou", "pixel_accuracy", "miou_of_classes"):
        found = difference[name]
        assert found["resolved"] is (found["low"] > 0 or found["high"] < 0)
    assert record["image_count"] == 4
    assert record["classes"] == ["background", "disk"]
    assert "resolved on these images" in err


def test_a_run_against_itself_differs_by_nothing(
    capsys: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record, err = answer(capsys, "compare", run, run, run)
    assert record["out"] is None
    assert [*tmp_path.iterdir()] == []  # no file without --out
    assert len(record["differences"]) == 2
    for difference in record["differences"]:
        for name in ("miou", "pixel_accuracy"):
            assert difference[name] == {"value": 0.0, "low": 0.0, "high": 0.0, "resolved": False}
    assert "not resolved on these images (95% interval +0.00 to +0.00, with 0)" in err


def test_each_network_has_its_own_size_and_output_stride(
    capsys: Any, run: Path, distilled: Path, tmp_path: Path
) -> None:
    settings = ["--size", "[40, 33]", "--output_stride", "[null, 16]", "--out", tmp_path / "comparison.json"]
    record, _ = answer(capsys, "compare", run, distilled, *settings)
    assert [network["size"] for network in record["networks"]] == [40, 33]
    for network, target, size, stride in zip(
        record["networks"], (run, distilled), (40, 33), (None, 16), strict=True
    ):
        config = EvaluateConfig(size=size, output_stride=stride, out=str(tmp_path / "scores.json"))
        assert network["miou"]["value"] == pytest.approx(api.evaluate(target, config)["miou"], abs=1e-12)


def test_a_size_for_each_means_for_each(capsys: Any, run: Path) -> None:
    assert cli.main(["compare", str(run), str(run), "--size", "[40, 33, 20]"]) == 1
    assert "one value, or one for each of the 2 networks" in " ".join(capsys.readouterr().err.split())


def test_a_clear_difference_is_called_resolved(
    capsys: Any, constant: str, shapes: Path, tmp_path: Path
) -> None:
    """Background is in every image, the last class in few."""
    options = ["--data.root", shapes, "--data.split", "train", "--out", tmp_path / "comparison.json"]
    record, err = answer(capsys, "compare", f"{constant}:Ground", f"{constant}:Last", *options)
    assert record["image_count"] == 12
    found = record["differences"][0]["pixel_accuracy"]
    assert found["resolved"]
    assert found["high"] < 0
    assert f"pixel accuracy: {constant}:Last is worse than {constant}:Ground by" in err


def test_networks_of_different_sizes_are_run_each_at_its_own(
    capsys: Any, run: Path, configure: Any, tmp_path: Path
) -> None:
    small = api.train(
        configure(tmp_path / "small", steps=1, evaluate_every=1, evaluate_size=24), report=False
    )
    out = ["--out", tmp_path / "comparison.json"]
    record, err = answer(capsys, "compare", run, small, *out)
    assert [network["size"] for network in record["networks"]] == [None, 24]
    assert "different sizes" in err
    alone = api.evaluate(small, EvaluateConfig(out=str(tmp_path / "scores.json")))
    assert record["networks"][1]["miou"]["value"] == pytest.approx(alone["miou"], abs=1e-12)
    record, err = answer(capsys, "compare", run, small, "--size", 24, *out)
    assert [network["size"] for network in record["networks"]] == [24, 24]
    assert "different sizes" not in err


def test_one_target_other_classes_and_unknown_ones_are_refused(
    capsys: Any, run: Path, constant: str, tmp_path: Path
) -> None:
    assert cli.main(["compare", str(run)]) == 1
    assert "compare takes two targets or more" in capsys.readouterr().err
    assert cli.main(["compare", str(run), f"{constant}:Other"]) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "have different classes" in err
    assert "only one of them has a, b" in err
    assert cli.main(["compare", str(run), str(run), "--classes", "zebra"]) == 1
    assert "no class is called zebra" in capsys.readouterr().err


def test_from_python_the_data_set_may_be_named(run: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "comparison.json"
    config = CompareConfig(
        data=EvaluationDataConfig(root=str(shapes), workers=0), resamples=100, out=str(out)
    )
    record = api.compare([run, run], config)
    assert (record["data"], record["resamples"]) == (str(shapes), 100)
    with pytest.raises(ValueError, match="two or more"):
        api.compare([run])


def test_two_processes_compare_as_one(
    launch: Any, run: Path, distilled: Path, shapes: Path, tmp_path: Path
) -> None:
    data = EvaluationDataConfig(root=str(shapes), workers=0)
    config = CompareConfig(data=data, device="cpu", out=str(tmp_path / "one.json"))
    alone = api.compare([run, distilled], config)
    options = ["--data.root", shapes, "--data.workers", 0, "--device", "cpu", "--out", tmp_path / "two.json"]
    done = launch("compare", run, distilled, *options)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert json.loads((tmp_path / "two.json").read_text()) == alone
