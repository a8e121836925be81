"""Videos: as many frames come out as went in, with the classes where they belong."""

import struct
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segdistill.data.inputs import Camera
from segdistill.data.labels import LabelSet
from segdistill.inference import video
from segdistill.inference.video import count_frames, even, predict_video
from segdistill.models.trained import TrainedNetwork

av = pytest.importorskip("av")
pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("background", "red", "green"), palette=((0, 0, 0), (200, 0, 0), (0, 200, 0)))


class Colours(nn.Module):
    """Answers with the image's red and green, and between them with background."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 9 * torch.stack([0 * image[:, 0], image[:, 0], image[:, 1]], dim=1)


@pytest.fixture
def network() -> TrainedNetwork:
    return TrainedNetwork(Colours(), LABELS, "colours").eval()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twelve frames of 64 x 48 pixels at 10 per second: green from the left pushes red to the right."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for step in range(12):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[:, :, 0], picture[:, : 4 * step + 4] = 255, (0, 255, 0)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return path


def frames(path: Path, form: str) -> list[np.ndarray]:
    with av.open(str(path)) as source:
        return [frame.to_ndarray(format=form) for frame in source.decode(video=0)]


def test_every_frame_is_segmented(network: TrainedNetwork, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "clip"
    masks_found = [prediction.mask for prediction in predict_video(network, clip, target, masks=True)]
    assert count_frames(clip) == len(masks_found) == 12
    masks = frames(target.with_name("clip_mask.mkv"), "gray")
    assert all(np.array_equal(mask, stored) for mask, stored in zip(masks_found, masks, strict=True))
    for step, mask in enumerate(masks_found):
        assert (mask[:, : 4 * step] == 2).all()
        assert (mask[:, 4 * step + 8 :] == 1).all()
    overlay = frames(target.with_name("clip_overlay.mp4"), "rgb24")
    assert len(overlay) == 12
    red, green = overlay[5][24, 60].astype(int), overlay[5][24, 5].astype(int)
    assert red[0] > 150 > 100 > red[1]
    assert green[1] > 150 > 100 > green[0]
    assert sorted(path.name for path in target.parent.iterdir()) == ["clip_mask.mkv", "clip_overlay.mp4"]


def turned(clip: Path, matrix: tuple[int, ...], path: Path) -> Path:
    """The clip with another display matrix (of which four numbers are given) in its track's header."""
    content = bytearray(clip.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = matrix
    content[start : start + 20] = struct.pack(">5i", a << 16, b << 16, 0, c << 16, d << 16)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "turns"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_frames_are_turned_upright(
    network: TrainedNetwork, clip: Path, tmp_path: Path, matrix: tuple[int, ...], turns: int
) -> None:
    path = turned(clip, matrix, tmp_path / "turned.mp4")
    plain, upright = (next(predict_video(network, file, tmp_path / "out")).mask for file in (clip, path))
    assert len(np.unique(plain)) == 2
    np.testing.assert_array_equal(upright, np.rot90(plain, turns))  # counter-clockwise


def test_a_stop_in_the_middle_leaves_nothing_half_written(
    network: TrainedNetwork, clip: Path, tmp_path: Path
) -> None:
    stream = predict_video(network, clip, tmp_path / "out" / "clip")
    next(stream)
    stream.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_odd_sides_get_one_more_line() -> None:
    picture = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    padded = even(picture)
    assert padded.shape == (4, 6, 3)
    np.testing.assert_array_equal(padded[:3, :5], picture)
    np.testing.assert_array_equal(padded[3, 5], picture[2, 4])
    assert even(padded).shape == (4, 6, 3)


def test_what_is_no_video_is_refused(network: TrainedNetwork, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"nothing")
    assert count_frames(path) is None
    with pytest.raises(ValueError, match=r"broken\.mp4 is not a video"):
        next(predict_video(network, path, tmp_path / "out"))


# Cameras: FFmpeg draws a test picture in the place of one


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    """Gives a picture of 64 x 48 pixels ten times a second, of which two in three are lost."""
    drawn = "testsrc=size=64x48:rate=10,select=not(mod(n\\,3))"
    monkeypatch.setitem(video.CAMERAS, sys.platform, (drawn, "lavfi", {}))
    return Camera(1)


def times(path: Path) -> list[float]:
    with av.open(str(path)) as source:
        return [frame.time for frame in source.decode(video=0)]


def test_a_camera_is_saved_where_its_caller_stops(
    network: TrainedNetwork, camera: Camera, tmp_path: Path
) -> None:
    stream = predict_video(network, camera, tmp_path / "camera_1", masks=True)
    masks = [prediction.mask for prediction in islice(stream, 4)]
    assert not (tmp_path / "camera_1_overlay.mp4").exists()
    stream.close()
    assert times(tmp_path / "camera_1_overlay.mp4") == pytest.approx([0, 0.3, 0.6, 0.9])
    stored = frames(tmp_path / "camera_1_mask.mkv", "gray")
    assert all(np.array_equal(mask, frame) for mask, frame in zip(masks, stored, strict=True))
    assert len(list(tmp_path.iterdir())) == 2
    assert count_frames(camera) is None


def test_ctrl_c_saves_what_a_camera_saw(camera: Camera, tmp_path: Path) -> None:
    class Interrupted(Colours):
        calls = 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().forward(image)

    network = TrainedNetwork(Interrupted(), LABELS, "colours").eval()
    with pytest.raises(KeyboardInterrupt):
        list(predict_video(network, camera, tmp_path / "camera_1"))
    assert len(frames(tmp_path / "camera_1_overlay.mp4", "rgb24")) == 3
    network.module.calls = 3  # before the first frame is done there is nothing to save
    with pytest.raises(KeyboardInterrupt):
        list(predict_video(network, camera, tmp_path / "empty" / "camera_1"))
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_camera_without_a_frame_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        asked = 0

        def decode(self, **which: int) -> Any:
            self.asked += 1
            yield self.asked
            if self.asked < 3:
                raise av.error.BlockingIOError(11, "Resource temporarily unavailable")

    assert list(video._frames(av, Slow())) == [1, 2, 3]


def test_a_camera_that_cannot_be_opened_is_named(
    network: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(video.CAMERAS, sys.platform, (f"{tmp_path}/video{{}}", "v4l2", {}))
    with pytest.raises(ValueError, match=r"camera:7 cannot be opened: No such file .*/video7\)"):
        next(predict_video(network, Camera(7), tmp_path / "out"))
    monkeypatch.delitem(video.CAMERAS, sys.platform)
    with pytest.raises(ValueError, match="camera:7 cannot be opened: cameras are read on Linux and macOS"):
        next(predict_video(network, Camera(7), tmp_path / "out"))
