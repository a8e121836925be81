"""A network's masks as a data set: those of predict, void where unsure, and each computed once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

import segdistill
from segdistill import cli
from segdistill.config.deploy import LabelConfig, PredictConfig
from segdistill.config.train import DataConfig
from segdistill.data.datasets import open_dataset, open_training
from segdistill.data.images import read_mask
from segdistill.data.labels import VOID
from segdistill.engine.run_folder import RunFolder
from segdistill.inference import tiles
from segdistill.inference.pipeline import Pipeline

pytestmark = pytest.mark.integration
UNSURE = 1e-4
"""Probabilities that are nearer to the limit may be rounded to its other side."""

TEACHER = """
import torch
from torch import nn


class Colours(nn.Module):
    labels = ["background", "red", "green", "blue"]

    def forward(self, image):
        return 3 * torch.cat([0 * image[:, :1] - 0.2, image], dim=1)
"""

Label = Callable[..., dict[str, Any]]


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """A network that finds colours, and is sure where they are strong."""
    (tmp_path / "colours.py").write_text(TEACHER)
    return f"{tmp_path / 'colours.py'}:Colours"


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """Two folders: a/x.jpg, a/y.jpg and a/more/z.png, and b/x.jpg, which is another picture."""
    drawn = sorted((shapes / "VOCdevkit" / "VOC2012" / "JPEGImages").glob("*.jpg"))
    folder = tmp_path / "photos"
    for name, image in zip(("a/x.jpg", "a/y.jpg", "b/x.jpg"), drawn, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(image, folder / name)
    (folder / "a" / "more").mkdir()
    with Image.open(drawn[3]) as image:
        image.resize((61, 40)).save(folder / "a" / "more" / "z.png")
    return folder


@pytest.fixture
def label(teacher: str, photos: Path, tmp_path: Path) -> Label:
    """Labels the photos of folder a, or those that are named; settings can be given."""

    def start(*paths: Path, **settings: Any) -> dict[str, Any]:
        config = LabelConfig(**({"out": str(tmp_path / "out"), "device": "cpu"} | settings))
        return segdistill.label(teacher, paths or [photos / "a"], config)

    return start


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that go through the network."""
    names: list[str] = []
    plain = Pipeline.run

    def recorded(self: Pipeline, files: Any) -> Any:
        names.extend(name.as_posix() for _, name in files)
        return plain(self, files)

    monkeypatch.setattr(Pipeline, "run", recorded)
    return names


def answer(capsys: Any, *arguments: object) -> tuple[dict[str, Any], str]:
    """Run a command that must succeed; returns its JSON line and what it writes for people."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert len(out.splitlines()) == 1
    return json.loads(out), err


def test_the_masks_are_those_of_predict(label: Label, teacher: str, photos: Path, tmp_path: Path) -> None:
    record = label()
    assert (record["images"], record["computed"], record["problems"]) == (3, 3, 0)
    assert record["void_share"] == 0
    assert sum(record["pixel_shares"].values()) == pytest.approx(1)
    config = PredictConfig(out=str(tmp_path / "predicted"), device="cpu")
    for mask, prediction in segdistill.predict(teacher, photos / "a", config):
        name = mask.relative_to(tmp_path / "predicted")
        assert (tmp_path / "out" / "masks" / name).read_bytes() == mask.read_bytes()
        assert prediction.mask.shape in {(48, 48), (40, 61)}
    assert sorted(path.name for path in (tmp_path / "out" / "masks").rglob("*.*")) == [
        "x.png",
        "y.png",
        "z.png",
    ]


@pytest.mark.parametrize("settings", [{}, {"flip": True, "size": 40}, {"output_stride": 16}])
def test_what_is_less_sure_than_asked_is_void(
    label: Label, teacher: str, photos: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = PredictConfig(out=str(tmp_path / "predicted"), device="cpu", probabilities=True, **settings)
    predicted = dict(segdistill.predict(teacher, photos / "a", config))
    highest = {mask: prediction.probabilities.max(axis=0) for mask, prediction in predicted.items()}
    limit = float(np.median(np.concatenate([values.ravel() for values in highest.values()])))
    record = label(confidence=limit, **settings)
    for mask, prediction in predicted.items():
        labelled = read_mask(tmp_path / "out" / "masks" / mask.relative_to(tmp_path / "predicted"))
        sure, unsure = highest[mask] > limit + UNSURE, highest[mask] < limit - UNSURE
        assert (labelled[unsure] == VOID).all()
        assert np.array_equal(labelled[sure], prediction.mask[sure])
        assert (sure | unsure).mean() > 0.95
    assert record["void_share"] == pytest.approx(0.5, abs=0.05)
    assert sum(record["pixel_shares"].values()) == pytest.approx(1 - record["void_share"])


def test_the_probability_is_that_of_the_runs_temperature(run: Path, photos: Path, tmp_path: Path) -> None:
    shares = []
    for temperature in (0.01, 5.0):
        softer = shutil.copytree(run, tmp_path / f"run-{temperature}")
        RunFolder(softer).write_temperature(temperature, None)
        config = LabelConfig(out=str(tmp_path / f"out-{temperature}"), confidence=0.4, device="cpu")
        shares.append(segdistill.label(softer, photos / "a", config)["void_share"])
        plain = LabelConfig(out=str(tmp_path / f"plain-{temperature}"), device="cpu")
        segdistill.label(softer, photos / "a", plain)
        RunFolder(softer).write_temperature(temperature + 1, None)
        with pytest.raises(ValueError, match=rf"made with temperature {temperature}, not {temperature + 1}"):
            segdistill.label(softer, photos / "a", config)
        assert segdistill.label(softer, photos / "a", plain)["computed"] == 0
    assert shares[0] < shares[1] == 1.0


def test_merged_classes_add_up_and_ignored_ones_are_void(
    label: Label, teacher: str, photos: Path, tmp_path: Path
) -> None:
    config = PredictConfig(out=str(tmp_path / "predicted"), device="cpu", probabilities=True)
    predicted = dict(segdistill.predict(teacher, photos / "a", config))
    record = label(confidence=0.5, map={"red": "warm", "green": "warm", "blue": "ignore"})
    assert list(record["pixel_shares"]) == ["background", "warm"]
    for mask, prediction in predicted.items():
        background, red, green, blue = prediction.probabilities
        merged = np.stack([background, red + green, blue])
        expected = merged.argmax(axis=0)
        expected[(expected == 2) | (merged.max(axis=0) < 0.5)] = VOID
        *_, second, first = np.sort(merged, axis=0)
        clear = (abs(first - 0.5) > UNSURE) & (first - second > UNSURE)
        labelled = read_mask(tmp_path / "out" / "masks" / mask.relative_to(tmp_path / "predicted"))
        assert np.array_equal(labelled[clear], expected[clear])
        assert clear.mean() > 0.95
    with pytest.raises(ValueError, match="no class is called car; classes are background, red"):
        label(out=str(tmp_path / "other"), map={"car": "vehicle"})


def test_two_processes_write_what_one_does(
    launch: Any, label: Label, teacher: str, photos: Path, tmp_path: Path
) -> None:
    alone = label(confidence=0.6)
    shutil.copytree(tmp_path / "out", tmp_path / "two", symlinks=True)
    for name in ("x", "y"):  # which are then computed by one process each
        (tmp_path / "two" / "masks" / f"{name}.png").unlink()
    for out, computed in (("fresh", 3), ("two", 2)):
        options = ["--confidence", 0.6, "--out", tmp_path / out, "--device", "cpu"]
        done = launch("label", teacher, photos / "a", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == alone | {
            "out": str(tmp_path / out), "sheet": str(tmp_path / out / "labels.jpg"), "computed": computed
        }  # fmt: skip
        for mask in (tmp_path / "out" / "masks").rglob("*.png"):
            same = tmp_path / out / "masks" / mask.relative_to(tmp_path / "out" / "masks")
            assert same.read_bytes() == mask.read_bytes()
    done = launch("label", teacher, photos / "a", "--out", tmp_path / "two", "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr.count("were made with confidence 0.6, not 0.0") == 2  # no process waits for another


def test_a_large_image_is_void_where_unsure_too(
    label: Label, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = label(photos / "b", confidence=0.6)
    monkeypatch.setattr(tiles, "LARGE", 1000)  # below the 48 x 48 pixels, so that it is cut into tiles
    tiled = label(photos / "b", confidence=0.6, out=str(tmp_path / "tiled"))
    assert tiled["pixel_shares"] == whole["pixel_shares"]
    assert 0 < tiled["void_share"] == whole["void_share"]
    assert [path.name for path in (tmp_path / "tiled" / "masks").iterdir()] == ["x.png"]


def test_data_check_finds_no_problem_and_a_training_reads_it(
    capsys: Any, teacher: str, photos: Path, quick: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "data set"
    options = ["--confidence", 0.6, "--out", out, "--device", "cpu"]
    record, err = answer(capsys, "label", teacher, photos / "a", photos / "b", *options)
    assert record["images"] == record["computed"] == 4
    assert record["out"] == str(out)
    assert f"segdistill train --data.root '{out}' --data.val_share" in err
    table = [line for line in err.splitlines() if "background" in line][-1]
    assert f"{record['pixel_shares']['background']:.2%}" in table
    assert f"{record['image_counts']['background']}" in table
    checked, _ = answer(capsys, "data", "check", out)
    assert (checked["pairs"], checked["problems"]) == (4, 0)
    training = [*quick, "--data.root", out, "--data.val_share", 0.3, "--batch", 2]
    trained, _ = answer(capsys, *training)
    assert trained["step"] == 2


def test_the_masks_can_be_added_to_labelled_ones(label: Label, tmp_path: Path) -> None:
    label(out=str(tmp_path / "first"))
    label(out=str(tmp_path / "second"), confidence=0.6)
    data = DataConfig(root=str(tmp_path / "first"), extra=[str(tmp_path / "second")], val_share=0.3)
    samples = open_training(data)
    assert samples.labelled == len(samples) == len(open_dataset(tmp_path / "first", "all")) - 1 + 3
    assert samples.labels.names == ("background", "red", "green", "blue")
    assert (samples[len(samples) - 1].mask == VOID).any()


def test_the_images_take_no_room(label: Label, photos: Path, tmp_path: Path) -> None:
    label()
    assert (tmp_path / "out" / "images" / "more" / "z.png").samefile(photos / "a" / "more" / "z.png")


def test_images_of_another_file_system_are_copied(
    label: Label, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: list[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    label()
    copy = tmp_path / "out" / "images" / "x.jpg"
    assert copy.read_bytes() == (photos / "a" / "x.jpg").read_bytes()
    assert not copy.samefile(photos / "a" / "x.jpg")
    os.utime(copy, (copy.stat().st_atime, int(copy.stat().st_mtime)))  # a file system with coarse times
    label()
    assert len(computed) == 3


def test_images_from_the_future_are_computed_once(label: Label, photos: Path, computed: list[str]) -> None:
    for image in (photos / "b").iterdir():
        os.utime(image, (2**32, 2**32))
    label(photos / "b")
    label(photos / "b")
    assert computed == ["x"]


def test_two_processes_do_not_write_into_one_folder(label: Label, tmp_path: Path) -> None:
    with FileLock(tmp_path / "out" / ".lock"):
        with pytest.raises(ValueError, match=r"another process writes masks into .* wait until it ends"):
            label()
    assert label()["images"] == 3


def test_a_second_call_computes_nothing(label: Label, computed: list[str]) -> None:
    first = label()
    assert computed == ["more/z", "x", "y"]
    second = label()
    assert computed == ["more/z", "x", "y"]
    assert second == first | {"computed": 0}


def test_an_interrupted_folder_is_continued(
    label: Label, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, out = Pipeline.run, tmp_path / "out"

    def interrupted(self: Pipeline, files: Any) -> Any:
        for done, result in enumerate(plain(self, files)):
            if done == 1:  # the second mask is written, and its image not yet there
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label()
    assert len(open_dataset(out, "all")) == 1  # what is there is a whole data set
    (out / "masks" / ".x.png.tmp").write_text("torn")
    computed.clear()
    assert label()["images"] == 3
    assert computed == ["x", "y"]
    assert not list(out.rglob("*.tmp"))


def test_images_that_changed_or_were_added_are_computed(
    label: Label, photos: Path, tmp_path: Path, computed: list[str]
) -> None:
    label()
    shutil.copy(photos / "a" / "y.jpg", photos / "a" / "new.jpg")
    (photos / "a" / "x.jpg").unlink()
    shutil.copy(photos / "b" / "x.jpg", photos / "a" / "x.jpg")
    computed.clear()
    assert label()["images"] == 4
    assert computed == ["new", "x"]
    assert (tmp_path / "out" / "images" / "x.jpg").samefile(photos / "a" / "x.jpg")


def test_two_images_of_one_name_are_both_kept(
    label: Label, photos: Path, tmp_path: Path, computed: list[str]
) -> None:
    assert label(photos / "a", photos / "b", photos / "a" / "x.jpg")["images"] == 4
    images = tmp_path / "out" / "images"
    assert (images / "x.jpg").samefile(photos / "a" / "x.jpg")
    assert (images / "x-2.jpg").samefile(photos / "b" / "x.jpg")
    assert sorted(computed) == ["more/z", "x", "x-2", "y"]
    label(photos / "b")  # alone, and it keeps its name
    assert len(computed) == 4
    with Image.open(photos / "a" / "y.jpg") as image:
        image.save(photos / "a" / "Y.png")
    label()
    assert computed[4:] in (["Y-2"], ["y-2"])
    assert len(open_dataset(tmp_path / "out", "all")) == 5


def test_a_bad_file_is_named_and_the_others_are_done(
    capsys: Any, teacher: str, photos: Path, tmp_path: Path
) -> None:
    (photos / "a" / "y.jpg").write_text("no image")
    command = ["label", teacher, str(photos / "a"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert (record["images"], record["problems"]) == (2, 1)
    assert f"{photos / 'a' / 'y.jpg'} is not an image" in " ".join(err.split())


@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_sheet_shows_images_and_overlays(label: Label, photos: Path, tmp_path: Path, count: int) -> None:
    for index in range(count):
        shutil.copy(photos / "a" / "y.jpg", photos / "b" / f"{index:02}.jpg")
    (photos / "b" / "x.jpg").unlink()
    label(photos / "b", confidence=0.999)
    with Image.open(tmp_path / "out" / "labels.jpg") as sheet:
        assert sheet.width == 1600
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    pale = (abs(pixels - (224, 224, 192)) < 60).all(axis=2) & (pixels.max(axis=2) - pixels.min(axis=2) > 8)
    assert pale.sum() > min(count, 12) * 30_000  # all of each mask is void


REFUSED = {
    "a foreign folder": (lambda photos: {"out": str(photos / "b")}, "holds x.jpg but no masks"),
    "a file": (lambda photos: {"out": str(photos / "b" / "x.jpg")}, "is a file, not a folder"),
    "the images' folder": (lambda photos: {"out": str(photos / "a" / "labels")}, "lie in each other"),
    "all void": (lambda photos: {"confidence": 1.0}, "confidence is 1.0, but must be from 0 to below 1"),
    "no size": (lambda photos: {"size": 0}, "size is 0, but must be above 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_what_to_do(label: Label, photos: Path, name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        label(**settings(photos))


def test_masks_of_other_settings_or_weights_are_refused(
    label: Label, teacher: str, photos: Path, tmp_path: Path
) -> None:
    label()
    with pytest.raises(ValueError, match=r"were made with confidence 0\.0, not 0\.5: name another folder"):
        label(confidence=0.5)
    config = LabelConfig(out=str(tmp_path / "out"), device="cpu")
    (tmp_path / "other.py").write_text(TEACHER)
    with pytest.raises(
        ValueError, match=r"were made with target .*colours\.py:Colours, not .*other\.py:Colours"
    ):
        segdistill.label(f"{tmp_path / 'other.py'}:Colours", photos / "a", config)
    (tmp_path / "out" / "label.json").write_text('{"settings": {}')
    with pytest.raises(ValueError, match=r"label\.json is damaged .*: delete"):
        label()


def test_a_video_and_a_folder_without_images_are_refused(label: Label, photos: Path) -> None:
    (photos / "film.mp4").write_text("film")
    with pytest.raises(ValueError, match=r"film\.mp4 is no image that a data set can hold"):
        label(photos / "film.mp4")
    (photos / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no images"):
        label(photos / "empty")
    (photos / "empty" / "bad.jpg").write_text("bad")
    with pytest.raises(ValueError, match="is not an image that can be read"):
        label(photos / "empty")
