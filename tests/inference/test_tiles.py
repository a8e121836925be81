"""Tiles: they cover an image once, leave no seams, and need little memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from segdistill import api
from segdistill.config.deploy import PredictConfig
from segdistill.data.images import read_image, read_mask, write_raw
from segdistill.data.labels import LabelSet
from segdistill.data.transforms import normalise
from segdistill.inference.tiles import FADE, GRID, Span, fade, needs_tiles, segment_tiles, spans
from segdistill.models.student import DSUNet
from segdistill.models.trained import TrainedNetwork, load_network

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("a", "b", "c"))


@given(length=st.integers(1, 3000), tile=st.integers(230, 700), overlap=st.integers(0, 160))
@settings(deadline=None)
def test_tiles_cover_an_axis_once_with_a_margin_around_each(length: int, tile: int, overlap: int) -> None:
    found = spans(length, tile, overlap)
    cores = [pixel for span in found for pixel in range(*span.core)]
    assert cores == list(range(length))
    for span in found:
        assert span.window[1] - span.window[0] <= tile
        assert span.window[0] % GRID == 0
        for side, end in ((0, 0), (1, length)):
            assert span.window[side] == end or abs(span.window[side] - span.core[side]) >= overlap / 2


@given(length=st.integers(1, 3000), tile=st.integers(230, 700), overlap=st.integers(0, 160))
@settings(deadline=None)
def test_weights_of_two_tiles_fade_from_one_to_the_other(length: int, tile: int, overlap: int) -> None:
    found = spans(length, tile, overlap)
    total, complete, reach = np.zeros(length), [], (1 - FADE) / 2 * overlap
    for span in found:
        weights = np.ones(span.window[1] - span.window[0])[span.weighted]
        if span.before:
            weights[: 2 * span.before] = (np.arange(2 * span.before) + 0.5) / (2 * span.before)
        if span.after:
            weights[len(weights) - 2 * span.after :] = (np.arange(2 * span.after)[::-1] + 0.5) / (
                2 * span.after
            )
        start = span.core[0] - span.before
        total[start : start + len(weights)] += weights
        complete += range(*span.complete.indices(length))
        for side, end in ((0, 0), (1, length)):  # no weight where the cut is near
            edge = (start, start + len(weights))[side]
            assert span.window[side] == end or abs(span.window[side] - edge) >= reach
    np.testing.assert_allclose(total, 1)
    assert complete == list(range(length))


def test_fading_by_hand() -> None:
    left, right = Span(window=(0, 6), core=(0, 4), after=2), Span(window=(2, 9), core=(4, 9), before=2)
    for axis, shape in ((2, (1, 1, -1)), (1, (1, -1, 1))):
        before, after = torch.full((1, 1, 6), 8.0).view(shape), torch.zeros(1, 1, 7).view(shape)
        first, shared = fade(before, None, left, axis)
        second, rest = fade(after, shared, right, axis)
        assert first.flatten().tolist() == [8, 8]
        assert second.flatten().tolist() == [7, 5, 3, 1, 0, 0, 0]  # 8 * 7/8, 5/8, 3/8, 1/8
        assert rest.numel() == 0


@pytest.mark.parametrize("overlap", [128, 0])
def test_tiles_that_disagree_have_no_edge(overlap: int) -> None:
    class Counter(nn.Module):
        """Gives each pixel the number of the image, whatever it shows."""

        count = 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.count += 1
            level = torch.full_like(image[:, :1], float(self.count))
            return torch.cat([level.square() / 10, level, torch.full_like(level, 2.5)], dim=1)

    network = TrainedNetwork(Counter(), LABELS, "counter").eval()
    levels: list[torch.Tensor] = []

    def decide(logits: torch.Tensor) -> np.ndarray:
        levels.append(logits.clone())
        return np.zeros(logits.shape[1:], np.uint8)

    segment_tiles(network, np.zeros((300, 300, 3), dtype=np.uint8), 256, overlap, decide=decide)
    rows = [torch.cat(levels[start : start + 2], dim=2) for start in (0, 2)]
    found = torch.cat(rows, dim=1)
    assert found.shape == (3, 300, 300)
    steps = max(found[1].diff(dim=axis).abs().max().item() for axis in (0, 1))
    assert steps == pytest.approx(
        2 if overlap == 0 else 2 / 32
    )  # 32 rows from the tiles above to those below


def test_a_tile_of_nothing_but_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="tile is 100, but must be 160 or more for an overlap of 128 pixels"):
        spans(1000, 100, 128)


@pytest.mark.parametrize("shape", [(300, 217), (64, 500), (90, 80)])
def test_there_are_no_seams(shape: tuple[int, int]) -> None:
    """The receptive field reaches 100 pixels or so: an overlap of 256 gives the whole image's mask."""
    torch.manual_seed(0)
    network = TrainedNetwork(DSUNet(3, 0.1), LABELS, "student").eval()
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with torch.no_grad():
        whole = network(normalise(torch.from_numpy(image).permute(2, 0, 1))[None]).argmax(dim=1)[0].numpy()
    assert len(np.unique(whole)) > 1
    tiled = segment_tiles(network, image, 288, 256)
    assert np.mean(tiled == whole) > 0.9999  # rounding may decide a tie


def test_without_overlap_there_are_seams() -> None:
    class Far(nn.Module):
        """Decides by the pixel 20 columns further right."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            far = nn.functional.pad(image, (0, 20))[..., 20:].mean(1)
            return torch.stack([0 * far, far, 0 * far - 9], dim=1)

    network = TrainedNetwork(Far(), LABELS, "far").eval()
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with torch.no_grad():
        whole = network(normalise(torch.from_numpy(image).permute(2, 0, 1))[None]).argmax(dim=1)[0].numpy()
    wrong = [np.mean(segment_tiles(network, image, 160, overlap) != whole) for overlap in (0, 40)]
    assert wrong[0] > 0.01
    assert wrong[1] == 0


@pytest.mark.parametrize("kind", ["plain.png", "grey.png", "turned.jpg", "alpha.png", "deep.png"])
def test_raw_files_hold_what_read_image_gives(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    picture, path, exif = Image.fromarray(pixels), tmp_path / kind, Image.Exif()
    if kind.startswith("grey"):
        picture = picture.convert("L")
    elif kind.startswith("alpha"):
        picture.putalpha(100)
    elif kind.startswith("deep"):
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif kind.startswith("turned"):
        exif[0x0112] = 6
    picture.save(path, exif=exif)
    expected = np.asarray(read_image(path))
    width, height = write_raw(path, tmp_path / "raw", strip=7)
    assert (height, width) == expected.shape[:2]
    raw = np.fromfile(tmp_path / "raw", dtype=np.uint8).reshape(expected.shape)
    np.testing.assert_array_equal(raw, expected)


def test_beyond_the_limit_of_decoding_tiles_must_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TrainedNetwork(DSUNet(3, 0.1), LABELS, "student").eval()
    path = tmp_path / "huge.png"
    Image.new("L", (400, 300)).save(path)
    for module in ("data.images", "inference.tiles"):
        monkeypatch.setattr(f"segdistill.{module}.MOST_PIXELS", 90_000)
    monkeypatch.setattr("segdistill.inference.tiles.LARGE", 10_000)
    assert not needs_tiles((400, 300), network, PredictConfig())
    with pytest.raises(ValueError, match="is 400x300 pixels, but at most 90,000 are decoded"):
        read_image(path)
    assert needs_tiles((400, 300), network, PredictConfig(tile=256))
    assert write_raw(path, tmp_path / "raw") == (400, 300)


def test_only_large_images_are_cut_without_being_asked() -> None:
    network = TrainedNetwork(DSUNet(3, 0.1), LABELS, "student").eval()
    large, small = (4001, 4000), (400, 400)
    assert needs_tiles(large, network, PredictConfig())
    assert not needs_tiles(small, network, PredictConfig())
    assert needs_tiles(small, network, PredictConfig(tile=256))
    assert not needs_tiles(large, network, PredictConfig(size=500))
    assert not needs_tiles(large, network, PredictConfig(flip=True))


@pytest.mark.integration
def test_predict_cuts_and_joins(run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 330, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    config = PredictConfig(tile=288, overlap=224, out=str(tmp_path / "tiled"), device="cpu")
    [(mask, _)] = list(api.predict(run, [tmp_path / "scene.png"], config))
    network = load_network(str(run))
    with torch.no_grad():
        whole = network(normalise(torch.from_numpy(pixels).permute(2, 0, 1))[None]).argmax(dim=1)[0].numpy()
    assert np.mean(read_mask(mask) == whole) > 0.999
    assert sorted(path.name for path in mask.parent.iterdir()) == ["scene.png", "scene_overlay.jpg"]
    refused = PredictConfig(tile=288, flip=True, out=str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match="tile goes with neither probabilities"):
        api.predict(run, tmp_path / "scene.png", refused)
    with pytest.raises(ValueError, match="tile is 200, but must be 288 or more"):
        api.predict(run, tmp_path / "scene.png", replace(config, tile=200, overlap=199))
