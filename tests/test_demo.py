"""The demonstration: a fair comparison, and the whole way from the command line at a small scale."""

import io
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segdistill import cli, demo
from segdistill.config.train import TrainConfig

pytestmark = pytest.mark.integration


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstration on few, tiny images, with two steps and a sliver of each network."""
    real = demo.experiments

    def few_steps(*given: Any) -> dict[str, TrainConfig]:
        return {
            name: replace(
                config,
                data=replace(config.data, workers=0),
                student=replace(config.student, width=config.student.width / 5),
                steps=2,
                size=32,
            )
            for name, config in real(*given).items()
        }

    monkeypatch.setattr(demo, "experiments", few_steps)
    monkeypatch.setattr(demo, "write_shapes", partial(demo.write_shapes, train=12, val=4))
    monkeypatch.setattr(demo, "SIZE", 32)


def test_the_two_students_differ_in_nothing_but_the_teacher(tmp_path: Path) -> None:
    configs = demo.experiments(tmp_path, tmp_path / "data", 3, "cpu")
    assert list(configs) == ["teacher", "student-alone", "student-distilled"]
    alone, distilled = asdict(configs["student-alone"]), asdict(configs["student-distilled"])
    differing = {key for key in alone if alone[key] != distilled[key]}
    assert differing == {"teacher", "objective", "out"}
    assert distilled["teacher"]["spec"] == configs["teacher"].out == str(tmp_path / "teacher")
    assert alone["teacher"]["spec"] is None
    assert {config.seed for config in configs.values()} == {3}
    assert {config.data.root for config in configs.values()} == {str(tmp_path / "data")}


def test_the_teacher_is_larger_than_the_student(tmp_path: Path) -> None:
    configs = demo.experiments(tmp_path, tmp_path / "data", 0, "cpu")
    assert configs["teacher"].student.width >= 4 * configs["student-alone"].student.width


def test_the_table_shows_what_was_measured() -> None:
    row = {"miou": 0.51234, "pixel_accuracy": 0.9, "parameters": 581287, "latency_ms": 7.84}
    console = Console(file=io.StringIO(), width=100)
    console.print(demo.comparison(dict.fromkeys(demo.TITLES, row), 2))
    text = console.file.getvalue()
    assert "2 CPU threads" in text
    for title in ("teacher", "student alone", "student distilled"):
        [line] = [line for line in text.splitlines() if line.startswith(f"│ {title} ")]
        assert [cell.strip() for cell in line.split("│")[2:-1]] == ["0.512", "0.900", "581,287", "7.8 ms"]


@pytest.mark.usefixtures("small")
def test_the_demonstration_ends_with_a_table_and_a_report(capsys: Any, tmp_path: Path) -> None:
    command = ["demo", "--out", str(tmp_path), "--device", "cpu"]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert list(result["networks"]) == ["teacher", "student-alone", "student-distilled"]
    for name, row in result["networks"].items():
        best = json.loads((tmp_path / name / "metrics.json").read_text())["best"]
        assert row["miou"] == best["miou"]
        assert row["latency_ms"] > 0
    scores = {name: row["miou"] for name, row in result["networks"].items()}
    gain = 100 * (scores["student-distilled"] - scores["student-alone"])
    assert result["gain_points"] == pytest.approx(gain)
    assert ("Distillation added" if gain > 0 else "did not help here") in err
    assert "│ student distilled" in err
    page = Path(result["report"]).read_text()
    assert all(name in page for name in scores)

    assert cli.main(command) == 1
    assert "holds another run" in capsys.readouterr().err.splitlines()[-1]
