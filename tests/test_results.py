"""Results in a notebook: tables and pictures, and otherwise a path or a dict."""

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

import segdistill
from segdistill.exporting.parity import scores_record
from segdistill.results import Export, Run

pytestmark = pytest.mark.integration


def test_a_run_is_a_path_that_shows_scores_curves_and_examples(distilled: Path) -> None:
    assert isinstance(distilled, Run)
    assert isinstance(distilled, Path)
    page = distilled._repr_html_()
    assert "mean IoU" in page
    assert "crescent" in page
    assert page.count("data:image/png;base64,") == 2
    assert pickle.loads(pickle.dumps(distilled)) == copy.copy(distilled) == Path(distilled)
    assert (distilled / "config.yaml").is_file()
    assert getattr(distilled / "figures", "_repr_html_", lambda: None)() is None


def test_scores_on_held_out_images_name_what_was_held_out(tmp_path: Path, run: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    text = (folder / "config.yaml").read_text()
    assert ", val" in " ".join(Run(folder)._repr_html_().split())
    (folder / "config.yaml").write_text(text.replace("val_share: 0.0", "val_share: 0.25"))
    page = " ".join(Run(folder)._repr_html_().split())
    assert "25% of train" in page
    assert ", val" not in page


def test_a_name_in_a_run_is_escaped(tmp_path: Path, run: Path) -> None:
    odd = tmp_path / "<b>"
    odd.mkdir()
    (odd / "config.yaml").write_text((run / "config.yaml").read_text())
    assert Run(odd)._repr_html_() == f"<code>{tmp_path}/&lt;b&gt;</code>"


def test_scores_differences_and_exports_are_dicts_with_a_table(run: Path, tmp_path: Path) -> None:
    scores = segdistill.evaluate(run, out=str(tmp_path / "a.json"), device="cpu", data={"workers": 0})
    assert "boundary IoU" in scores._repr_html_()
    assert json.loads(json.dumps(scores)) == scores
    both = segdistill.compare(
        [run, run], out=str(tmp_path / "b.json"), device="cpu", data={"workers": 0}, resamples=100
    )
    assert both == json.loads((tmp_path / "b.json").read_text())
    assert "not resolved" in both._repr_html_()
    parity = {"images": 4, "pixels": 9216, "same_class": 1.0, "largest_difference": 1e-6} | scores_record(
        None
    )
    assert "runs/a.onnx" in Export(file="runs/a.onnx", bytes=10**6, parity=parity)._repr_html_()


def test_a_prediction_shows_its_overlay(run: Path, shapes: Path, tmp_path: Path) -> None:
    image: Any = next(shapes.rglob("*.jpg"))
    [(_, prediction)] = segdistill.predict(run, image, out=str(tmp_path), device="cpu")
    assert prediction._repr_jpeg_().startswith(b"\xff\xd8")
