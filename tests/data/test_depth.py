"""Images of more than 8 bits per channel: scaled by what says their depth; channels that are no colours."""

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deep_images import chunk, png, tiff
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from segdistill.data.cache.images import sample_key
from segdistill.data.cache.teacher import image_key
from segdistill.data.check import Survey, check
from segdistill.data.datasets import open_dataset, open_unlabelled, splits
from segdistill.data.digest import data_digest
from segdistill.data.images import read_image, upright_rgb, write_raw
from segdistill.data.samples import FileSamples
from segdistill.engine.fill_caches import find_missing
from segdistill.inspecting import convert_dataset

pytestmark = pytest.mark.unit

SHADES = [0, 16, 2048, 4095]
"""Values of 12 bits; as 8 bits they are 0, 1, 128 and 255."""
EIGHT = [0, 1, 128, 255]
LARGEST = 281
"""TIFF's MaxSampleValue."""


def grey(values: list[int]) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=np.uint16))


def red(path: Path, bits: int | None = None) -> list[int]:
    """The first channel of the first row."""
    return np.asarray(read_image(path, bits))[0, :, 0].tolist()


def dataset(root: Path, values: list[int], *, description: str = "", name: str = "a.png") -> FileSamples:
    """A data set of one 16-bit image, with a mask of two classes."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    grey(values).save(root / "images" / name)
    Image.fromarray(np.array([[0, 1] * (len(values) // 2)], dtype=np.uint8)).save(root / "masks" / "a.png")
    (root / "dataset.yaml").write_text(f"names: [ground, road]\nimages: images\nmasks: masks\n{description}")
    return open_dataset(root, "all")


# What says the depth


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_bits_of_dataset_yaml_scale_grey_images(tmp_path: Path, name: str) -> None:
    samples = dataset(tmp_path, SHADES, description="bits: 12\n", name=name)
    assert samples[0].image[0, 0].tolist() == EIGHT
    assert samples.subset(np.array([True]))[0].image[0, 0].tolist() == EIGHT
    assert open_unlabelled(tmp_path / "images", samples.labels, 12)[0].image[0, 0].tolist() == EIGHT


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("form", ["png", "tif"])
def test_bits_scale_colours_of_which_pil_keeps_the_upper_half(
    tmp_path: Path, form: str, channels: int
) -> None:
    pixels = np.array([[[value] * channels for value in SHADES]], dtype=np.uint16)
    pixels[..., 3:] = 4095  # opaque
    (png if form == "png" else tiff)(tmp_path / f"a.{form}", pixels)
    assert red(tmp_path / f"a.{form}", 12) == EIGHT
    if channels == 3:
        assert red(tmp_path / f"a.{form}") == [0, 0, 8, 15]


def test_what_a_tiff_says_counts_without_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    grey(SHADES).save(path, tiffinfo={LARGEST: 4095})
    assert red(path) == EIGHT
    assert red(path, 16) == [0, 0, 8, 16]
    grey(SHADES[:3]).save(path, tiffinfo={LARGEST: 2048})  # no depth, but the largest value of this image
    assert red(path) == [0, 0, 8]


def test_compressed_colours_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiff(path, np.array([[[value] * 3 for value in SHADES]], dtype=np.uint16), tags={259: [8]})
    assert red(path, 12) == EIGHT


def test_colours_of_a_tiff_that_says_12_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiff(path, np.array([[[value] * 3 for value in SHADES]], dtype=np.uint16), tags={LARGEST: [4095]})
    assert red(path) == EIGHT
    assert write_raw(path, tmp_path / "raw") == (4, 1)
    assert list((tmp_path / "raw").read_bytes())[::3] == EIGHT
    with Image.open(path) as image:
        image.load()  # of which PIL keeps the upper 8 bits
        with pytest.raises(ValueError, match="its colours have 12 bits, as its TIFF tag 281 says, in 16"):
            upright_rgb(image)


def test_packed_12_bits_are_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiff(path, np.zeros((1, 2, 1), dtype=np.uint16), photometric=1)
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HHI", 258, 3, 1))
    content[place + 8] = 12
    content[-4:] = bytes([0xFF, 0xF8, 0x00, 0x00])  # 4095 and 2048, of 12 bits each
    path.write_bytes(content)
    assert red(path) == [255, 128]


def test_sbit_does_not_change_the_range_of_a_png(tmp_path: Path) -> None:
    png(tmp_path / "a.png", np.array([[[0], [257], [65535]]], dtype=np.uint16), significant=12)
    assert red(tmp_path / "a.png") == [0, 1, 255]


def test_the_maximum_of_a_pgm_counts_whatever_bits_says(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 4095\n" + struct.pack(">2H", 4095, 2048))
    assert red(tmp_path / "a.pgm") == red(tmp_path / "a.pgm", 12) == [255, 128]


def test_images_of_8_bits_are_not_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[7, 200]], dtype=np.uint8)).save(tmp_path / "a.tif", tiffinfo={LARGEST: 255})
    assert red(tmp_path / "a.tif", 12) == [7, 200]


def test_an_image_of_12_bits_is_scaled_for_tiles_too(tmp_path: Path) -> None:
    grey(SHADES).save(tmp_path / "a.tif", tiffinfo={LARGEST: 4095})
    assert write_raw(tmp_path / "a.tif", tmp_path / "raw") == (4, 1)
    assert list((tmp_path / "raw").read_bytes())[::3] == EIGHT


def test_the_orientation_of_deep_colours_is_applied(tmp_path: Path) -> None:
    pixels = np.array([[[4095] * 3, [0] * 3]], dtype=np.uint16)
    png(tmp_path / "a.png", pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = (tmp_path / "a.png").read_bytes()
    before = content.index(b"IDAT") - 4
    turned = content[:before] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + content[before:]
    (tmp_path / "a.png").write_bytes(turned)
    assert np.asarray(read_image(tmp_path / "a.png", 12))[:, 0, 0].tolist() == [255, 0]


# What is refused


def test_a_value_beyond_the_bits_names_file_value_and_fix(tmp_path: Path) -> None:
    samples = dataset(tmp_path, [0, 5000], description="bits: 12\n")
    text = (
        r"images/a\.png cannot be read: it holds the value 5,000, but 12 bits, as `bits` in dataset\.yaml "
        r"says, end at 4,095: say `bits: 13` in dataset\.yaml"
    )
    with pytest.raises(ValueError, match=text):
        samples[0]


@pytest.mark.parametrize("value", ["8", "17", "12.0", "'12'", "true", "null"])
def test_impossible_bits_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValueError, match=r"dataset\.yaml: bits is .*, a whole number from 9 to 16"):
        dataset(tmp_path, SHADES, description=f"bits: {value}\n")


@pytest.mark.parametrize("value", [-3, 70_000])
def test_values_outside_16_bits_are_refused_and_not_clipped(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.array([[0, value]], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif cannot be read: it holds the value {value:,}, but values"):
        read_image(tmp_path / "a.tif")


def test_floating_point_values_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read: its values are floating-point numbers"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("channels", "extra"), [(2, []), (2, [0]), (5, []), (5, [0, 0]), (8, [])])
def test_other_channels_are_named(tmp_path: Path, channels: int, extra: list[int]) -> None:
    pixels = np.zeros((2, 3, channels), dtype=np.uint8)
    tiff(tmp_path / "a.tif", pixels, 1 if channels == 2 else 2, {338: extra} if extra else {})
    with pytest.raises(ValueError, match=rf"a\.tif cannot be read: it has {channels} channels, but images"):
        read_image(tmp_path / "a.tif")


def test_lab_is_named(tmp_path: Path) -> None:
    Image.new("LAB", (2, 2)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read: its colours are CIELAB"):
        read_image(tmp_path / "a.tif")


def test_grey_with_transparency_of_12_bits_is_refused(tmp_path: Path) -> None:
    png(tmp_path / "a.png", np.zeros((1, 2, 2), dtype=np.uint16))
    assert red(tmp_path / "a.png") == [255, 255]  # transparent, over white
    with pytest.raises(ValueError, match=r"a\.png cannot be read: its channels have 16 bits in the form LA"):
        read_image(tmp_path / "a.png", 12)


# What depends on it


def test_other_bits_are_another_entry_of_the_caches_and_another_digest(tmp_path: Path) -> None:
    found = []
    for description in ("", "bits: 12\n", "bits: 14\n"):
        samples = dataset(tmp_path, SHADES, description=description)
        files = samples.files(0)
        found.append(
            (sample_key(samples, 0), image_key(files.id, files.image, files.bits), data_digest(samples))
        )
        assert files.bits == {"": None, "bits: 12\n": 12, "bits: 14\n": 14}[description]
    assert [len(set(column)) for column in zip(*found, strict=True)] == [3, 3, 3]


def test_the_teachers_cache_lacks_an_image_of_other_bits(tmp_path: Path) -> None:
    samples = dataset(tmp_path, SHADES, description="bits: 12\n")
    files = samples.files(0)
    held = {image_key(files.id, files.image, 12)}
    cache: Any = SimpleNamespace(holds=held.__contains__)
    process: Any = SimpleNamespace(process_index=0, num_processes=1)
    assert find_missing(cache, samples, process) == []
    assert find_missing(cache, samples.with_bits(14), process) == [0]


def test_a_divided_and_a_converted_data_set_keep_the_bits(tmp_path: Path) -> None:
    root = tmp_path / "in"
    dataset(root, SHADES, description="bits: 12\n")
    for name in "bcdefgh":
        for folder in ("images", "masks"):
            (root / folder / f"{name}.png").write_bytes((root / folder / "a.png").read_bytes())
    with (root / "dataset.yaml").open("a") as file:
        file.write("val: 0.5\n")
    convert_dataset(root, tmp_path / "out")
    for place in (root, tmp_path / "out"):
        for split in splits(place):
            assert open_dataset(place, split)[0].image[0, 0].tolist() == EIGHT


@pytest.mark.parametrize("description", ["", "bits: 12\n"])
def test_check_warns_of_16_bits_that_are_all_dark(tmp_path: Path, description: str) -> None:
    samples = dataset(tmp_path, SHADES, description=description)
    counted = Survey.of(samples)
    assert list(check(samples, counted)) == [None]
    expected = [
        "the brightest of 1 images with 16 bits per channel is 4,095 of 65,535, so that all are dark: "
        "if they were taken with fewer bits, say `bits: 12` in dataset.yaml"
    ]
    assert counted.warnings == ([] if description else expected)


def test_check_warns_of_dark_images_without_masks(tmp_path: Path) -> None:
    labels = dataset(tmp_path, SHADES).labels
    samples = open_unlabelled(tmp_path / "images", labels)
    counted = Survey.of(samples)
    assert list(check(samples, counted)) == [None]
    assert (counted.deep, counted.brightest, len(counted.warnings)) == (1, 4095, 1)


def test_pixels_are_looked_at_twice_only_in_images_of_more_than_8_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, decoded = dataset(tmp_path, SHADES), []
    load = PngImageFile.load

    def counting(image: PngImageFile) -> Any:
        decoded.append(str(image.filename))
        return load(image)

    monkeypatch.setattr(PngImageFile, "load", counting)
    name = str(tmp_path / "images" / "a.png")
    assert list(check(samples, Survey.of(samples))) == [None]
    deep = decoded.count(name)
    decoded.clear()
    grey(SHADES).convert("L").save(name)
    assert list(check(samples, Survey.of(samples))) == [None]
    shallow = decoded.count(name)
    decoded.clear()
    assert list(check(samples)) == [None]
    assert decoded.count(name) == shallow < deep


def test_check_does_not_warn_where_one_is_bright(tmp_path: Path) -> None:
    samples = dataset(tmp_path, [0, 40_000])
    counted = Survey.of(samples)
    assert list(check(samples, counted)) == [None]
    assert (counted.deep, counted.brightest, counted.warnings) == (1, 40_000, [])


def test_check_warns_of_dark_colours_too(tmp_path: Path) -> None:
    samples = dataset(tmp_path, SHADES)
    png(tmp_path / "images" / "a.png", np.array([[[value] * 3 for value in SHADES]], dtype=np.uint16))
    counted = Survey.of(samples)
    assert list(check(samples, counted)) == [None]
    assert (counted.deep, counted.brightest) == (1, 4095)
