"""Several images on their way at a time: results in order, each failure that of its image, and an end."""

import gc
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segdistill.config.deploy import PredictConfig
from segdistill.data.images import read_mask
from segdistill.data.inputs import find_images
from segdistill.data.labels import LabelSet
from segdistill.inference import pipeline
from segdistill.inference.pipeline import Pipeline, UnreadableFilesError
from segdistill.models.streams import sharing
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("red", "green", "blue"))
Predict = Callable[..., Any]


class Brightest(nn.Module):
    """The channel that is largest; images that are wide take longer, and others pass them by."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[int] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shares.append(sharing())
        time.sleep(0.03 if image.shape[3] > image.shape[2] else 0)
        return image


class Meeting(nn.Module):
    """Computes nothing before two threads are in it."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.barrier.wait(20)
        return image


@pytest.fixture
def predict(photos: Path, tmp_path: Path) -> Predict:
    def start(module: nn.Module, **settings: Any) -> Any:
        network = TrainedNetwork(module, LABELS, "brightest").eval()
        network.concurrent = True
        config = PredictConfig(out=str(tmp_path / "out"), **{"streams": 3} | settings)
        return Pipeline(network, config, torch.device("cpu")).run(list(find_images([photos])))

    return start


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stream")]


def test_results_come_in_order_and_are_those_of_one_at_a_time(predict: Predict) -> None:
    module = Brightest()
    found = [(mask.stem, read_mask(mask), prediction.mask) for mask, prediction in predict(module)]
    single = [(mask.stem, prediction.mask) for mask, prediction in predict(module, streams=1)]
    assert [name for name, *_ in found] == [str(index) for index in range(10)]
    for (_, written, mask), (_, expected) in zip(found, single, strict=True):
        assert np.array_equal(written, mask)
        assert np.array_equal(mask, expected)
    assert module.shares == [3] * 10 + [1] * 10
    assert threads() == []


def test_few_images_get_all_cores_each(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    module = Brightest()
    list(predict(module, streams=0))
    assert module.shares == [2] * 10
    module.shares.clear()
    monkeypatch.setattr(pipeline, "PER_STREAM", 6)
    list(predict(module, streams=0))
    assert module.shares == [1] * 10


def test_images_are_computed_at_a_time(predict: Predict) -> None:
    assert len(list(predict(Meeting(), streams=2))) == 10


def test_a_bad_file_in_the_middle_is_named_and_the_others_are_done(predict: Predict, photos: Path) -> None:
    class Picky(Brightest):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if image.shape[2:] == (30, 30):
                raise ValueError("no squares")
            return super().forward(image)

    (photos / "2.png").write_text("no image")
    (photos / "5.png").write_bytes((photos / "4.png").read_bytes()[:1000])
    Image.new("RGB", (30, 30)).save(photos / "7.png")
    names: list[str] = []
    with pytest.raises(UnreadableFilesError) as caught:  # noqa: PT012  # the error comes after results
        for mask, _ in predict(Picky()):
            names.append(mask.stem)
    assert names == ["0", "1", "3", "4", "6", "8", "9"]
    assert [path.stem for path in caught.value.reasons] == ["2", "5", "7"]
    assert caught.value.reasons[photos / "7.png"] == f"{photos / '7.png'}: no squares"


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError(28, "No space left on device")])
def test_what_is_no_ones_image_ends_it(
    predict: Predict, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, "write_prediction", fail)
    with pytest.raises(type(error), match=str(error.args[-1])):
        list(predict(Brightest()))
    assert threads() == []


def test_ctrl_c_ends_it(predict: Predict) -> None:
    class Interrupting(Brightest):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if len(self.shares) == 4:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return super().forward(image)

    module = Interrupting()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            list(predict(module))
    finally:
        signal.signal(signal.SIGINT, before)
    assert threads() == []
    assert len(module.shares) < 10


def test_a_caller_that_stops_early_leaves_no_file_open(predict: Predict) -> None:
    results = predict(Brightest())
    next(results)
    results.close()
    assert threads() == []
    gc.collect()  # an image that is still open would warn, which is an error


def test_as_many_wait_as_the_caller_lags_behind(predict: Predict) -> None:
    module = Brightest()
    results = predict(module, streams=2)
    next(results)
    time.sleep(0.3)
    assert len(module.shares) <= 5
    results.close()


@pytest.mark.parametrize(("pixels", "most"), [(3 * 24 * 40, 3), (24 * 40 - 1, 1)])
def test_images_in_memory_are_bounded_by_their_pixels(
    predict: Predict, monkeypatch: pytest.MonkeyPatch, pixels: int, most: int
) -> None:
    """Of images of 24 x 40 pixels; the last one that the caller got counts too."""

    class Slow(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            time.sleep(0.2)  # in which all would be decoded
            return image

    monkeypatch.setattr(pipeline, "CHUNK_PIXELS", pixels)
    decoded: list[Path] = []
    decode = pipeline.decode_image
    monkeypatch.setattr(
        pipeline, "decode_image", lambda path, *more: decoded.append(path) or decode(path, *more)
    )
    in_memory = [len(decoded) - taken for taken, _ in enumerate(predict(Slow(), streams=8))]
    assert len(in_memory) == 10
    assert max(in_memory) == most


def test_what_takes_much_memory_is_computed_alone(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BATCH_PIXELS", 900)
    module = Brightest()
    assert [mask.stem for mask, _ in predict(module)] == [str(index) for index in range(10)]
    assert module.shares == [1] * 10
    module.shares.clear()
    list(predict(module, size=30))
    assert module.shares == [3] * 10
    for settings in ({"probabilities": True}, {"flip": True}, {"tile": 64, "overlap": 0}):
        module.shares.clear()
        list(predict(module, **settings))
        assert set(module.shares) == {1}
