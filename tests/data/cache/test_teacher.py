"""The cache of a teacher's outputs: what is written is read, what is torn is missed, crops are exact."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.config.train import AugmentConfig
from segdistill.data.cache.teacher import (
    LARGEST,
    Grid,
    LogitsCache,
    LogitsFormat,
    cut_logits,
    fit_features,
    image_key,
)
from segdistill.data.transforms import Crop, draw_crop

pytestmark = pytest.mark.unit
GRIDS: tuple[Grid, ...] = ("stretched", "strided", "corners")


def form(**changes: object) -> LogitsFormat:
    plain = LogitsFormat(classes=5, square=None, scale=2.0, stride=4, grid="stretched", topk=0, teacher="abc")
    return replace(plain, **changes)  # type: ignore[arg-type]


def random_logits(kind: LogitsFormat, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(2, kind.classes, *kind.grid_size(size), generator=generator)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    kind, sizes = form(), {1: (10, 7), 2**63 + 5: (8, 8)}
    with LogitsCache(tmp_path, kind).writer(0) as writer:
        for key, size in sizes.items():
            writer.write(key, size, random_logits(kind, size, seed=key % 100))
    cache = LogitsCache(tmp_path, kind)
    assert len(cache) == 2
    for key, size in sizes.items():
        found = cache.read(key, size)
        assert found is not None
        assert torch.equal(found, random_logits(kind, size, seed=key % 100).half().float())
    assert cache.read(3, (10, 7)) is None
    assert cache.read(1, (10, 8)) is None  # another image size: the image was replaced


def test_shards_of_several_processes_are_one_cache(tmp_path: Path) -> None:
    kind = form()
    for rank in range(3):
        with LogitsCache(tmp_path, kind).writer(rank) as writer:
            writer.write(rank, (8, 8), random_logits(kind, (8, 8), rank))
    cache = LogitsCache(tmp_path, kind)
    assert [cache.holds(key) for key in range(4)] == [True, True, True, False]


def test_another_teacher_or_input_size_never_mixes(tmp_path: Path) -> None:
    with LogitsCache(tmp_path, form()).writer(0) as writer:
        writer.write(1, (8, 8), random_logits(form(), (8, 8)))
    for changed in (
        {"teacher": "abd"},
        {"scale": 1.5},
        {"stride": 8},
        {"topk": 2},
        {"square": 8},
        {"output_stride": 4},
    ):
        assert not LogitsCache(tmp_path, form(**changed)).holds(1), changed


@pytest.mark.parametrize("torn", ["data", "byte", "index"])
def test_what_is_torn_is_missed_and_can_be_written_again(tmp_path: Path, torn: str) -> None:
    kind, size = form(), (8, 8)
    with LogitsCache(tmp_path, kind).writer(0) as writer:
        for key in (1, 2):
            writer.write(key, size, random_logits(kind, size, key))
    shard = next(tmp_path.rglob("*.bin"))
    data, index = shard.read_bytes(), shard.with_suffix(".idx").read_bytes()
    if torn == "data":
        shard.write_bytes(data[:-1])
    elif torn == "byte":
        shard.write_bytes(data[:-7] + bytes([data[-7] ^ 1]) + data[-6:])
    else:
        shard.with_suffix(".idx").write_bytes(index[:-3])
    cache = LogitsCache(tmp_path, kind)
    assert cache.holds(1)
    assert not cache.holds(2)
    with cache.writer(0) as writer:
        writer.write(2, size, random_logits(kind, size, 2))
    cache.reload()
    found = cache.read(2, size)
    assert found is not None
    assert torch.equal(found, random_logits(kind, size, 2).half().float())


def test_the_sparse_form_keeps_the_largest_and_the_sum_of_the_others() -> None:
    kind = form(topk=2)
    logits = torch.tensor([4.0, 1.0, 3.0, 0.0, -1.0]).view(1, 5, 1, 1).expand(2, -1, 2, 2)
    size = (4, 4)
    data = kind.encode(logits)
    assert len(data) == kind.record_bytes(size) == 2 * 4 * (3 * 2 + 2)
    again = kind.decode(data, size)
    assert again[0, [0, 2], 0, 0].tolist() == [4.0, 3.0]
    others = again[0, [1, 3, 4], 0, 0]
    assert len(set(others.tolist())) == 1
    # e^1 + e^0 + e^-1 = 4.0862, a third of it is e^0.3090
    assert others[0].item() == pytest.approx(0.3090, abs=1e-3)
    torch.testing.assert_close(again.float().logsumexp(1), logits.logsumexp(1), atol=1e-3, rtol=1e-3)


def test_the_input_of_a_corner_aligned_teacher_is_a_multiple_plus_one() -> None:
    kind = form(scale=1.6, stride=16, grid="corners", output_stride=16)
    assert kind.input_size((240, 320)) == (385, 513)
    assert kind.grid_size((240, 320)) == (25, 33)
    assert kind.unscaled_size((240, 320)) == (240, 320)
    stretched = replace(kind, square=64)
    assert (stretched.unscaled_size((240, 320)), stretched.input_size((240, 320))) == ((64, 64), (97, 97))


@given(
    height=st.integers(9, 40), width=st.integers(9, 40), crop_size=st.integers(4, 24),
    seed=st.integers(0, 10**6), where=st.sampled_from(GRIDS), scale=st.sampled_from([1.0, 1.6, 2.0]),
    square=st.sampled_from([None, 20]), output_stride=st.sampled_from([None, 8]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_crop_of_linear_logits_is_cut_exactly(
    height: int, width: int, crop_size: int, seed: int, where: Grid, scale: float, square: int | None,
    output_stride: int | None,
) -> None:  # fmt: skip
    """Logits that grow linearly over the image have a known value at every pixel of every crop."""
    kind = form(grid=where, scale=scale, classes=2, square=square, output_stride=output_stride)
    size = (height, width)
    pixels, grid = kind.input_size(size), kind.grid_size(size)

    def along(points: int, pixels: int, length: int) -> torch.Tensor:
        """Position in the image, 0 to its length, of each grid point."""
        i = torch.arange(points)
        at = {
            "stretched": (i + 0.5) * pixels / points,
            "strided": (i + 0.5) * kind.stride,
            "corners": 0.5 + i * (pixels - 1) / max(1, points - 1),
        }
        return at[where] / pixels * length

    rows, columns = along(grid[0], pixels[0], height), along(grid[1], pixels[1], width)
    plain = torch.stack([rows[:, None].expand(grid), columns[None].expand(grid)])
    mirror = torch.stack([rows[:, None].expand(grid), (width - columns)[None].expand(grid)])
    crop = draw_crop(height, width, crop_size, AugmentConfig(scale=(0.5, 2)), np.random.default_rng(seed))
    cut = cut_logits(torch.stack([plain, mirror]), crop, size, size, kind).interpolate().float()
    inner = (
        slice(crop.pad_top, crop.pad_top + crop.out_height),
        slice(crop.pad_left, crop.pad_left + crop.out_width),
    )
    y = crop.top + (torch.arange(crop.out_height) + 0.5) / crop.out_height * crop.height
    x = crop.left + (torch.arange(crop.out_width) + 0.5) / crop.out_width * crop.width
    x = x.flip(0) if crop.flip else x
    # Beyond the outermost grid points the logits stay what they are there; those of the mirror image lie
    # elsewhere where the grid is not symmetric.
    ends = (width - columns[-1], width - columns[0]) if crop.flip else (columns[0], columns[-1])
    y, x = y.clamp(rows[0], rows[-1]), x.clamp(*ends)
    torch.testing.assert_close(cut[0][inner], y[:, None].expand(len(y), len(x)), atol=0.05, rtol=2e-3)
    torch.testing.assert_close(cut[1][inner], x[None].expand(len(y), len(x)), atol=0.05, rtol=2e-3)
    assert cut.sum() == pytest.approx(cut[:, inner[0], inner[1]].sum().item())  # nothing on the padding


@given(seed=st.integers(0, 10**6), flip=st.booleans(), cells=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_cells_hold_what_lies_at_their_centres(seed: int, flip: bool, cells: int) -> None:
    """With an odd number of pixels per cell the centre of a cell is that of a pixel."""
    kind, size = form(classes=3), (31, 26)
    crop = draw_crop(*size, 3 * cells, AugmentConfig(flip=float(flip)), np.random.default_rng(seed))
    logits = random_logits(kind, size, seed)
    pixels = cut_logits(logits, crop, size, size, kind).interpolate()
    coarse = cut_logits(logits, crop, size, size, kind, cells).interpolate()
    torch.testing.assert_close(coarse, pixels[:, 1::3, 1::3], atol=1e-2, rtol=1e-3)


@given(
    top=st.integers(0, 9), left=st.integers(0, 14), height=st.integers(1, 10), width=st.integers(1, 15),
    out=st.integers(1, 12), flip=st.booleans(), where=st.sampled_from(GRIDS),
    square=st.sampled_from([None, 20]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_crop_of_a_downscaled_image_shows_what_the_same_crop_of_the_file_shows(
    top: int, left: int, height: int, width: int, out: int, flip: bool, where: Grid, square: int | None
) -> None:
    kind, native = form(grid=where, scale=1.6, square=square), (40, 60)
    logits = random_logits(kind, native)
    box = {"top": top, "left": left, "height": height, "width": width}
    small, large = (
        Crop(
            size=16, **{name: factor * value for name, value in box.items()},
            out_height=out, out_width=out, pad_top=1, pad_left=2, flip=flip,
        )
        for factor in (1, 2)
    )  # fmt: skip
    torch.testing.assert_close(
        cut_logits(logits, small, (20, 30), native, kind).interpolate(),
        cut_logits(logits, large, native, native, kind).interpolate(),
        atol=2e-3,
        rtol=2e-3,
    )


def test_a_crop_of_the_whole_image_is_the_bilinear_upsampling() -> None:
    kind, size = form(scale=1.0), (16, 24)
    logits = random_logits(kind, size)
    crop = Crop(
        size=24, top=0, left=0, height=16, width=24, out_height=16, out_width=24, pad_top=0, pad_left=0,
        flip=False,
    )  # fmt: skip
    expected = F.interpolate(logits[:1], size=size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(
        cut_logits(logits, crop, size, size, kind).interpolate()[:, :16].float(),
        expected,
        atol=0.01,
        rtol=1e-3,
    )


def test_a_replaced_image_has_another_key(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12")
    first = image_key("a", tmp_path / "a.jpg")
    assert first == image_key("a", tmp_path / "a.jpg") != image_key("b", tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"123")
    assert image_key("a", tmp_path / "a.jpg") != first


# Where the features of an encoder lie


def positions(length: int, stride: int) -> torch.Tensor:
    """Centres, in pixels, of the cells that an encoder rounds up to, as it computes them."""
    return (torch.arange(-(-length // stride)) + 0.5) * stride


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(375, 500), (384, 512), (370, 490), (353, 497)])
def test_features_are_as_exact_where_sides_are_no_multiples_of_the_stride(
    size: tuple[int, int], flip: bool
) -> None:
    """Smooth features, sampled where an encoder of stride 16 has them, are found again within a crop."""
    stride, (height, width) = 16, size
    kind = form(scale=1.0, stride=stride, grid="strided", classes=1)

    def smooth(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return ((y / 80).sin()[:, None] + (x / 100).cos()[None])[None]

    rows, columns = (positions(length, stride) for length in size)
    whole = torch.stack([smooth(rows, columns), smooth(rows, width - columns)])
    crop = Crop(
        size=256, top=height - 256, left=width - 256, height=256, width=256, out_height=256, out_width=256,
        pad_top=0, pad_left=0, flip=flip,
    )  # fmt: skip
    cut = cut_logits(whole, crop, size, size, kind, cells=16).interpolate()[0].float()
    inner = positions(256, stride)
    expected = smooth(height - 256 + inner, width - 256 + (256 - inner if flip else inner))[0]
    # Half a cell at the border has no neighbour to interpolate with.
    error = (cut - expected).abs()[:-1, 1:-1]
    assert error.mean() < 0.01
    assert error.max() < 0.02


@pytest.mark.parametrize("offset", [0, 112])
@pytest.mark.parametrize("rows", [369, 375, 384])
def test_features_of_a_crop_are_those_of_the_live_encoder(rows: int, offset: int) -> None:
    """An encoder without context, at crops that lie on its grid: nothing is lost but float16."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, rows, 240, generator=generator)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(pixels, 16, ceil_mode=True)

    kind = form(scale=1.0, stride=16, grid="strided", classes=1)
    whole = torch.cat([encode(image), encode(image.flip(3))])
    crop = Crop(
        size=224, top=offset, left=16, height=224, width=224, out_height=224, out_width=224, pad_top=0,
        pad_left=0, flip=False,
    )  # fmt: skip
    cut = cut_logits(whole, crop, (rows, 240), (rows, 240), kind, cells=14).interpolate()
    live = encode(image[:, :, offset : offset + 224, 16:])[0]
    torch.testing.assert_close(cut.float(), live, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("ceil", [False, True])
def test_features_stay_where_they_were_however_the_encoder_rounds(ceil: bool) -> None:
    features = F.max_pool2d(torch.rand(2, 3, 375, 250), 16, ceil_mode=ceil)
    kind = form(scale=1.0, stride=16, grid="strided", classes=3)
    fitted = fit_features(features, kind, (375, 250))
    assert fitted.shape[2:] == kind.grid_size((375, 250)) == (24, 16)
    assert torch.equal(fitted[:, :, :23, :15], features[:, :, :23, :15])
    assert torch.equal(fitted[:, :, 23, :15], features[:, :, -1, :15])


def test_features_of_a_fixed_resolution_are_stretched_over_the_image() -> None:
    ramp = ((torch.arange(8) + 0.5) * 375 / 8)[None, None, :, None].expand(2, 1, 8, 8)
    fitted = fit_features(ramp, form(scale=1.0, stride=16, grid="strided", classes=1), (375, 375))
    inner = fitted[0, 0, 2:-2, 0]  # beyond the outermost of the eight there is nothing to interpolate with
    torch.testing.assert_close(inner, positions(375, 16)[2:-2])


# What float16 cannot hold


@pytest.mark.parametrize("topk", [0, 2])
def test_logits_beyond_float16_are_clamped_and_counted(tmp_path: Path, topk: int) -> None:
    kind, size = form(topk=topk), (8, 8)
    logits = random_logits(kind, size)
    large = logits.clone()
    large[0, 0], large[1, 1] = 70_000.0, -1e6
    with LogitsCache(tmp_path, kind).writer(0) as writer:
        writer.write(1, size, logits)
        assert writer.clamped == 0
        writer.write(2, size, large)
        assert writer.clamped == 1
    found = LogitsCache(tmp_path, kind).read(2, size)
    assert found is not None
    assert found.isfinite().all()
    assert (found[0, 0] == LARGEST).all()
    if not topk:
        assert (found[1, 1] == -LARGEST).all()
    crop = draw_crop(8, 8, 8, AugmentConfig(scale=(1, 1), flip=0), np.random.default_rng(0))
    cut = cut_logits(found, crop, size, size, kind).interpolate()
    assert cut.float().log_softmax(0).isfinite().all()


def test_a_logit_that_is_no_number_stays_none() -> None:
    logits = random_logits(form(), (8, 8))
    logits[0, 0] = torch.nan
    assert form().decode(form().encode(logits), (8, 8))[0, 0].isnan().all()
