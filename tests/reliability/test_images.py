"""Hostile image files: each is read or refused on one line, in bounded time and memory."""

import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hostile import hostile
from memory import AddedMemory
from PIL import Image

from segdistill.data.check import check
from segdistill.data.images import MOST_PIXELS, read_image
from segdistill.data.labels import LabelSet
from segdistill.data.samples import FileSamples
from segdistill.inference.prediction import predict_image, write_prediction
from segdistill.models.student import DSUNet
from segdistill.models.trained import TrainedNetwork

LABELS = LabelSet(names=("ground", "road"))
SECONDS, BYTES = 5, 2 * 2**30


def stop(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"took more than {SECONDS} s")


def attack(count: int, folder: Path) -> dict[str, float]:
    """Feed the files to `data check` and `predict_image`; returns what it took."""
    torch.manual_seed(0)
    network = TrainedNetwork(DSUNet(2, width=0.05), LABELS, "tiny", size=32).eval()
    figures = {"inputs": 0, "read": 0, "refused": 0, "worst_seconds": 0.0}
    added = AddedMemory()
    previous = signal.signal(signal.SIGALRM, stop)
    try:
        for number, (name, content) in enumerate(hostile(count)):
            path = folder / f"{number}{Path(name).suffix}"
            path.write_bytes(content)
            started = time.process_time()
            signal.alarm(60)  # of a clock on the wall, which others' work slows down
            refusals = []
            try:
                write_prediction(predict_image(network, read_image(path)), folder / "out", Path("x"))
            except ValueError as error:
                refusals.append(str(error))
            data = FileSamples(LABELS, ["x"], [path], [path])
            refusals += [problem.reason for problem in check(data) if problem]
            signal.alarm(0)
            assert all("\n" not in text and len(text) < 1000 for text in refusals), name
            figures["worst_seconds"] = max(figures["worst_seconds"], time.process_time() - started)
            figures["inputs"] += 1
            figures["read" if len(refusals) < 2 else "refused"] += 1
            path.unlink()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    figures["megabytes"] = added.peak() / 2**20
    print(json.dumps(figures))
    assert figures["worst_seconds"] < SECONDS, figures
    assert figures["megabytes"] < BYTES / 2**20, figures
    return figures


@pytest.mark.unit
def test_a_sample_of_hostile_images(tmp_path: Path) -> None:
    figures = attack(150, tmp_path)
    assert figures["inputs"] == 150
    assert figures["read"] > 10
    assert figures["refused"] > 50


@pytest.mark.soak
def test_hostile_images_by_the_thousand(tmp_path: Path) -> None:
    assert attack(2500, tmp_path)["inputs"] == 2500


@pytest.mark.unit
def test_an_image_above_the_limit_says_what_to_do(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("segdistill.data.images.MOST_PIXELS", 100)
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    Image.new("L", (11, 10)).save(tmp_path / "b.png")
    assert read_image(tmp_path / "a.png").size == (10, 10)
    with pytest.raises(ValueError, match=r"is 11x10 pixels, but at most 100 .* SEGDISTILL_MOST_PIXELS"):
        read_image(tmp_path / "b.png")
    assert MOST_PIXELS == 2**26


@pytest.mark.unit
def test_a_picture_longer_than_a_jpeg_file_can_be_has_an_overlay(tmp_path: Path) -> None:
    Image.new("RGB", (1, 70_000)).save(tmp_path / "a.png")
    network = TrainedNetwork(DSUNet(2, width=0.05), LABELS, "tiny", size=32).eval()
    mask = write_prediction(predict_image(network, read_image(tmp_path / "a.png")), tmp_path, Path("x"))
    for path, longest in ((mask, 70_000), (tmp_path / "x_overlay.jpg", 65_500)):
        with Image.open(path) as image:
            assert max(image.size) == longest
