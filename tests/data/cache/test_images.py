"""The cache of decoded images: what comes from it is what the files give; torn and stale entries do not."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.data.cache.images import DecodedSamples, sample_key
from segdistill.data.datasets import open_dataset, open_unlabelled
from segdistill.data.labels import VOC
from segdistill.data.samples import DownscaledSamples, JoinedSamples, Sample, Samples
from segdistill.data.shapes import write_shapes

pytestmark = pytest.mark.unit


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Three labelled images of 40 x 40 pixels, and two of other sizes without masks."""
    write_shapes(tmp_path / "shapes", train=3, val=1, size=40)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("wide", (30, 61)), ("small", (9, 7))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    labelled = open_dataset(tmp_path / "shapes", "train")
    return JoinedSamples([labelled, open_unlabelled(tmp_path / "photos", labelled.labels)])


def filled(samples: Samples, long_side: int | None, root: Path) -> DecodedSamples:
    decoded = DecodedSamples(samples, long_side, root)
    with decoded.cache.writer(0) as writer:
        for index in decoded.missing(range(len(decoded))):
            assert decoded.write(writer, index, decoded[index], 1e9) > 0
    decoded.cache.reload()
    return decoded


def assert_same(first: Sample, second: Sample) -> None:
    assert torch.equal(first.image, second.image)
    assert first.image.stride() == second.image.stride()  # resizing rounds by the layout
    assert torch.equal(first.mask, second.mask)
    assert (first.id, first.native) == (second.id, second.native)


@pytest.mark.parametrize("long_side", [None, 20, 40])
def test_the_cache_gives_what_the_files_give(
    samples: Samples, tmp_path: Path, long_side: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [DownscaledSamples(samples, long_side)[index] for index in range(5)]
    decoded = filled(samples, long_side, tmp_path / "cache")
    assert decoded.missing(range(5)) == []
    assert decoded.kept() == len(decoded.cache) == 5
    monkeypatch.setattr(DownscaledSamples, "__getitem__", None)  # no file is opened any more
    for index, sample in enumerate(expected):
        assert_same(decoded[index], sample)
    assert [sample.native for sample in expected] == [(40, 40)] * 3 + [(9, 7), (30, 61)]
    if long_side == 20:
        assert [tuple(s.mask.shape) for s in expected] == [(20, 20)] * 3 + [(9, 7), (10, 20)]
        # three bytes a pixel, a fourth for the mask where there is one
        size = 3 * 4 * 20 * 20 + 3 * (9 * 7 + 10 * 20)
        assert decoded.cache.shards[0].stat().st_size == size
    image = decoded[0].image
    image += 1  # it is a copy: the file stays as it was
    assert not torch.equal(decoded[0].image, image)


@pytest.mark.parametrize("torn", ["data", "byte", "index"])
def test_what_is_torn_is_decoded_and_written_again(samples: Samples, tmp_path: Path, torn: str) -> None:
    shard = filled(samples, 20, tmp_path / "cache").cache.shards[0]
    data, index = shard.read_bytes(), shard.with_suffix(".idx").read_bytes()
    if torn == "data":
        shard.write_bytes(data[:-1])
    elif torn == "byte":
        shard.write_bytes(data[:-7] + bytes([data[-7] ^ 1]) + data[-6:])
    else:
        shard.with_suffix(".idx").write_bytes(index[:-3])
    decoded = DecodedSamples(samples, 20, tmp_path / "cache")
    assert decoded.missing(range(5)) == [4]
    assert_same(decoded[4], DownscaledSamples(samples, 20)[4])
    assert filled(samples, 20, tmp_path / "cache").missing(range(5)) == []


@pytest.mark.parametrize("changed", ["image", "mask", "time"])
def test_a_changed_file_is_read_again(samples: Samples, tmp_path: Path, changed: str) -> None:
    filled(samples, None, tmp_path / "cache")
    path = samples.files(1).image
    if changed == "image":
        Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(path)
    elif changed == "mask":
        path = path.parents[1] / "SegmentationClass" / f"{path.stem}.png"
        Image.fromarray(np.full((40, 40), 7, np.uint8)).save(path)
    else:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    decoded = DecodedSamples(samples, None, tmp_path / "cache")
    assert decoded.missing(range(5)) == [1]
    assert_same(decoded[1], samples[1])
    assert_same(filled(samples, None, tmp_path / "cache")[1], samples[1])


def test_another_long_side_or_another_meaning_of_the_masks_never_mixes(
    samples: Samples, tmp_path: Path
) -> None:
    first = filled(samples, 20, tmp_path / "cache")
    assert DecodedSamples(samples, 21, tmp_path / "cache").cache.folder != first.cache.folder
    again = open_unlabelled(tmp_path / "photos", VOC)
    assert sample_key(again, 0) != sample_key(samples, 3)  # the same file, but other classes
    assert sample_key(samples, 3) == int(first.keys[3])
    assert len(set(first.keys.tolist())) == 5


def test_what_does_not_fit_is_not_written(samples: Samples, tmp_path: Path) -> None:
    decoded = DecodedSamples(samples, 20, tmp_path / "cache")
    with decoded.cache.writer(0) as writer:
        assert decoded.write(writer, 0, decoded[0], 1599) == 0
        assert decoded.write(writer, 1, decoded[1], 1600) == 1600
    decoded.cache.reload()
    assert decoded.missing(range(5)) == [0, 2, 3, 4]
    assert decoded.kept() == 1
