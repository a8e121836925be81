"""The cache of a teacher's logits: what is written is read, what is torn is missed, crops are cut exactly."""

from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.config.train import AugmentConfig
from segdistill.data.cache.teacher import Grid, LogitsCache, LogitsFormat, crop_logits, image_key
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
    for changed in ({"teacher": "abd"}, {"scale": 1.5}, {"stride": 8}, {"topk": 2}, {"square": 8}):
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


@given(
    height=st.integers(9, 40), width=st.integers(9, 40), crop_size=st.integers(4, 24),
    seed=st.integers(0, 10**6), where=st.sampled_from(GRIDS), scale=st.sampled_from([1.0, 1.6, 2.0]),
    square=st.sampled_from([None, 20]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_crop_of_linear_logits_is_cut_exactly(
    height: int, width: int, crop_size: int, seed: int, where: Grid, scale: float, square: int | None
) -> None:
    """Logits that grow linearly over the image have a known value at every pixel of every crop."""
    kind = form(grid=where, scale=scale, classes=2, square=square)
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
    cut = crop_logits(torch.stack([plain, mirror]), crop, size, size, kind).float()
    inner = (
        slice(crop.pad_top, crop.pad_top + crop.out_height),
        slice(crop.pad_left, crop.pad_left + crop.out_width),
    )
    y = crop.top + (torch.arange(crop.out_height) + 0.5) / crop.out_height * crop.height
    x = crop.left + (torch.arange(crop.out_width) + 0.5) / crop.out_width * crop.width
    x = x.flip(0) if crop.flip else x
    # Beyond the outermost grid points the logits stay what they are there.
    y, x = y.clamp(rows[0], rows[-1]), x.clamp(columns[0], columns[-1])
    if crop.flip:  # the mirror image's outermost points lie elsewhere where the grid is not symmetric
        x = x.clamp(width - columns[-1], width - columns[0])
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
    pixels = crop_logits(logits, crop, size, size, kind)
    coarse = crop_logits(logits, crop, size, size, kind, cells)
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
        crop_logits(logits, small, (20, 30), native, kind),
        crop_logits(logits, large, native, native, kind),
        atol=2e-3,
        rtol=2e-3,
    )


def test_a_second_run_waits_until_the_first_has_written(tmp_path: Path) -> None:
    kind, size = form(), (8, 8)

    def write() -> None:
        with LogitsCache(tmp_path, kind).writer(0) as second:
            second.write(2, size, random_logits(kind, size, 2))

    with LogitsCache(tmp_path, kind).writer(0) as first:
        thread = Thread(target=write)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        first.write(1, size, random_logits(kind, size, 1))
    thread.join(10)
    cache = LogitsCache(tmp_path, kind)
    assert [cache.holds(key) for key in (1, 2)] == [True, True]
    found = cache.read(2, size)
    assert found is not None
    assert torch.equal(found, random_logits(kind, size, 2).half().float())
    assert torch.equal(found, random_logits(kind, size, 2).half())


def test_a_crop_of_the_whole_image_is_the_bilinear_upsampling() -> None:
    kind, size = form(scale=1.0), (16, 24)
    logits = random_logits(kind, size)
    crop = Crop(
        size=24, top=0, left=0, height=16, width=24, out_height=16, out_width=24, pad_top=0, pad_left=0,
        flip=False,
    )  # fmt: skip
    expected = F.interpolate(logits[:1], size=size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(
        crop_logits(logits, crop, size, size, kind)[:, :16].float(), expected, atol=0.01, rtol=1e-3
    )


def test_a_replaced_image_has_another_key(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12")
    first = image_key("a", tmp_path / "a.jpg")
    assert first == image_key("a", tmp_path / "a.jpg") != image_key("b", tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"123")
    assert image_key("a", tmp_path / "a.jpg") != first
