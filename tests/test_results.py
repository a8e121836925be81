"""Results in a notebook: tables and pictures, and otherwise a path or a dict."""

import copy
import json
import pickle
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import segdistill
from segdistill.exporting.parity import scores_record
from segdistill.results import Calibration, Export, FilledCache, FoundStudent, Labelling, Push, Run

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


def same_dict(result: Any) -> Any:
    """The result, which is a dict in all respects, also after a copy."""
    assert json.loads(json.dumps(result)) == {**result} == copy.deepcopy(result)
    assert pickle.loads(pickle.dumps(result)) == result
    return result


def words(result: Any) -> str:
    """What a notebook shows of it, in one line."""
    return " ".join(unescape(re.sub("<[^>]+>", "", same_dict(result)._repr_html_())).split())


def test_a_certificate_shows_its_verdict_and_intervals(run: Path, shapes: Path, tmp_path: Path) -> None:
    found = segdistill.verify(
        run, against=str(run), data={"root": str(shapes), "workers": 0}, device="cpu", repeats=0,
        resamples=100, out=str(tmp_path / "certificate.json"),
    )  # fmt: skip
    text = words(found)
    assert "B - A" in text
    assert "Verdict: shown: " in text
    assert "interval ±0.00 to ±0.00" in text
    assert json.loads((tmp_path / "certificate.json").read_text()).items() <= found.items()


def test_labels_show_their_counts(run: Path, shapes: Path, tmp_path: Path) -> None:
    photo = next(shapes.rglob("*.jpg"))
    found = segdistill.label(run, photo, out=str(tmp_path / "labels"), device="cpu")
    text = words(found)
    assert "1 masks in " in text
    assert "background" in text
    assert "1 of them computed by this call Some of" in text
    assert "2 files could not be read" in words(Labelling(found | {"problems": 2}))


def test_a_temperature_shows_the_errors_before_and_after(run: Path, shapes: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    found = segdistill.calibrate(folder, data={"root": str(shapes), "workers": 0}, device="cpu")
    text = words(found)
    assert f"temperature {found['temperature']:.3f}, fitted on 4 images" in text
    for name in ("error_before", "error_after", "held_out_before", "held_out_after"):
        assert f"{found[name]:.4f}" in text
    assert "on these images │ - │ -" in words(
        Calibration(found | dict.fromkeys(("error_before", "error_after")))
    )


def test_a_cache_a_search_and_a_push_show_what_matters() -> None:
    cache = FilledCache(cache=["c/logits", "c/features"], images=1200, bytes=5 * 10**6, stride=8, seconds=2.5)
    assert words(cache) == "1,200 images in c/logits and c/features: 5.0 MB at stride 8, in 2.5 s"
    student = FoundStudent(
        out="s", student="s/runs/[a]", file="s/model.xml", certificate="s/model.xml.html", candidate="lite0",
        miou=0.51234, size=320, latency_ms=9.87, report="s/report.html",
    )  # fmt: skip
    text = words(student)
    for part in ("lite0 at 320 pixels", "s/runs/[a]", "0.5123", "9.9 ms", "s/model.xml", "s/report.html"):
        assert part in text
    assert "│ - │" in words(FoundStudent(student | {"miou": None}))
    waiting = FoundStudent(out="s", waiting_for="device/measured.json")
    assert words(waiting).startswith("Waiting for device/measured.json, ")
    sent = {"files": ["README.md", "model.json"], "bytes": 2 * 10**6, "repository": "me/a"}
    assert words(Push(sent, url="https://hf.co/me/a", commit="1f")) == (
        "https://hf.co/me/a: 2 files, 2.0 MB, commit 1f"
    )
    assert "Nothing was sent; dry holds what me/a would get" in words(Push(sent, folder="dry"))


def test_a_prediction_shows_its_overlay(run: Path, shapes: Path, tmp_path: Path) -> None:
    image: Any = next(shapes.rglob("*.jpg"))
    [(_, prediction)] = segdistill.predict(run, image, out=str(tmp_path), device="cpu")
    assert prediction._repr_jpeg_().startswith(b"\xff\xd8")
