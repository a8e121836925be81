"""Many files: in order, in batches of one size, each opened once, and the bad ones named at the end."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segdistill.cli import main
from segdistill.config.deploy import PredictConfig
from segdistill.data.images import read_mask
from segdistill.data.inputs import find_images
from segdistill.data.labels import LabelSet
from segdistill.inference import pipeline
from segdistill.inference.pipeline import OpenedFile, Pipeline, UnreadableFilesError, chunks
from segdistill.inference.prediction import predict_image
from segdistill.models.student import DSUNet
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("background", "red", "green"))


class Recorder(nn.Module):
    """A student that notes the shapes of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = DSUNet(3, 0.1).eval()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shapes.append((len(image), *image.shape[2:]))
        return self.student(image)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


Predict = Callable[..., Any]


def names_until_error(results: Any) -> tuple[list[str], UnreadableFilesError]:
    """What is yielded before the error that names the bad files."""
    names: list[str] = []
    with pytest.raises(UnreadableFilesError) as caught:  # noqa: PT012  # the error comes after results
        for mask, _ in results:
            names.append(mask.stem)
    return names, caught.value


@pytest.fixture(autouse=True)
def batches_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: on a CPU images are run one by one."""
    monkeypatch.setattr(pipeline, "CPU_BATCH", pipeline.BATCH)


@pytest.fixture
def predict(recorder: Recorder, photos: Path, tmp_path: Path) -> Predict:
    """Predicts the photos; settings can be given."""

    def start(module: nn.Module = recorder, **settings: Any) -> Any:
        network = TrainedNetwork(module, LABELS, "recorder").eval()
        config = PredictConfig(out=str(tmp_path / "out"), **settings)
        return Pipeline(network, config, torch.device("cpu")).run(list(find_images([photos])))

    return start


def test_results_come_in_order_and_are_those_of_single_images(
    predict: Predict, recorder: Recorder, photos: Path
) -> None:
    network = TrainedNetwork(recorder, LABELS, "recorder").eval()
    results = list(predict())
    assert [mask.name for mask, _ in results] == [f"{index}.png" for index in range(10)]
    for index, (mask, prediction) in enumerate(results):
        with Image.open(photos / f"{index}.png") as image:
            expected = predict_image(network, image, probabilities=False).mask
        assert np.array_equal(prediction.mask, read_mask(mask))
        assert prediction.mask.shape == expected.shape
        assert (prediction.mask == expected).mean() > 0.999  # a batch may round otherwise
        assert mask.with_name(f"{index}_overlay.jpg").is_file()


def test_images_of_one_size_share_a_batch(
    predict: Predict, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(predict())
    assert recorder.shapes == [
        (1, 40, 24), (2, 24, 40), (2, 40, 24), (2, 24, 40), (2, 24, 40), (1, 40, 24),
    ]  # fmt: skip  # in chunks of 1, 2, 4, 3
    recorder.shapes.clear()
    monkeypatch.setattr(pipeline, "FIRST_CHUNK", 16)
    list(predict())
    assert recorder.shapes == [(4, 40, 24), (6, 24, 40)]


def test_a_batch_is_no_larger_than_the_limits(
    predict: Predict, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FIRST_CHUNK", 16)
    monkeypatch.setattr(pipeline, "BATCH_PIXELS", 3 * 40 * 24)
    list(predict())
    assert recorder.shapes == [(3, 40, 24), (3, 24, 40), (3, 24, 40), (1, 40, 24)]
    recorder.shapes.clear()
    monkeypatch.setattr(TrainedNetwork, "largest", (2, 512))
    list(predict())
    assert [shape[0] for shape in recorder.shapes] == [2] * 5


@pytest.mark.parametrize("error", [ValueError("one at a time"), RuntimeError("fixed batch"), None])
def test_a_network_without_batches_gets_single_images(
    predict: Predict, recorder: Recorder, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FIRST_CHUNK", 16)

    class Single(nn.Module):
        """Refuses a batch, or passes over all but its first image."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if len(image) > 1 and error is not None:
                raise error
            return recorder(image[:1])

    plain = [prediction.mask for _, prediction in predict()]
    recorder.shapes.clear()
    single = [prediction.mask for _, prediction in predict(Single())]
    assert sum(shape[0] for shape in recorder.shapes) == 10 + (error is None)
    assert all((a == b).mean() > 0.999 for a, b in zip(plain, single, strict=True))


@pytest.mark.parametrize("settings", [{"probabilities": True}, {"flip": True}])
def test_full_logits_are_computed_image_by_image(
    predict: Predict, recorder: Recorder, settings: dict[str, bool]
) -> None:
    results = list(predict(**settings))
    assert all(shape[0] == 1 for shape in recorder.shapes)
    assert all((p.probabilities is not None) is ("probabilities" in settings) for _, p in results)


def test_probabilities_of_one_image_at_a_time_are_in_memory(predict: Predict, recorder: Recorder) -> None:
    for done, _ in enumerate(predict(probabilities=True), start=1):
        assert len(recorder.shapes) == done


def test_each_file_is_opened_once(predict: Predict, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    open_file = Image.open
    monkeypatch.setattr(
        Image, "open", lambda path, *given, **named: opened.append(path) or open_file(path, *given, **named)
    )
    assert len(list(predict())) == 10
    assert sorted(opened) == sorted(photos.iterdir())


def test_bad_files_are_named_at_the_end_and_the_others_are_done(predict: Predict, photos: Path) -> None:
    (photos / "2.png").write_text("no image")
    (photos / "5.png").write_bytes((photos / "4.png").read_bytes()[:1000])
    names, error = names_until_error(predict())
    assert names == ["0", "1", "3", "4", "6", "7", "8", "9"]
    assert list(error.reasons) == [photos / "2.png", photos / "5.png"]
    message = str(error)
    assert message.startswith("2 of 10 files failed: ")
    assert f"{photos / '2.png'} is not an image" in message
    assert f"{photos / '5.png'} cannot be decoded" in message
    assert isinstance(error, ValueError)


def test_an_image_that_the_network_refuses_is_a_bad_file(predict: Predict, recorder: Recorder) -> None:
    class Wide(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if image.shape[2] > image.shape[3]:
                raise ValueError("wide images only")
            return recorder(image)

    names, error = names_until_error(predict(Wide()))
    assert names == ["1", "2", "4", "5", "7", "8"]
    assert [path.stem for path in error.reasons] == ["0", "3", "6", "9"]
    assert all(reason.endswith(".png: wide images only") for reason in error.reasons.values())


def test_a_bad_file_alone_is_the_whole_message(predict: Predict, photos: Path) -> None:
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    (photos / "0.png").write_text("no image")
    with pytest.raises(UnreadableFilesError, match=rf"^{photos / '0.png'} is not an image"):
        list(predict())


def test_the_disk_that_is_full_ends_it(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "write_prediction", full)
    with pytest.raises(OSError, match="No space left"):
        list(predict())


def test_a_caller_that_stops_early_leaves_no_file_open(
    predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CHUNK", 3)
    results = predict()
    next(results)
    results.close()
    gc.collect()  # an image that is still open would warn, which is an error


@pytest.mark.integration
def test_the_command_does_the_others_and_exits_with_1(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "3.png").write_text("no image")
    code = main(["predict", str(run), str(photos), "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 10 files failed" in last
    assert str(photos / "3.png") in last
    assert len(list((tmp_path / "out").glob("?.png"))) == 9


def test_chunks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "FIRST_CHUNK", 3)
    monkeypatch.setattr(pipeline, "CHUNK", 3)
    monkeypatch.setattr(pipeline, "CHUNK_PIXELS", 100)
    sizes = [40, 40, 30, 200, 10, None, 10, 10, 10, 10, None, None]
    found = chunks(
        OpenedFile(source=Path(str(i)), name=Path(str(i)), pixels=size) for i, size in enumerate(sizes)
    )
    assert [[item.pixels for item in chunk] for chunk in found] == [
        [40, 40], [30], [200], [10], [None], [10, 10, 10], [10], [None], [None],
    ]  # fmt: skip


def test_chunks_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CHUNK", 5)
    found = chunks(OpenedFile(source=Path(str(i)), name=Path(str(i)), pixels=1) for i in range(20))
    assert [len(chunk) for chunk in found] == [1, 2, 4, 5, 5, 3]
