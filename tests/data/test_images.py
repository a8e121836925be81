"""Reading image and mask files of every mode that people have."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.images import list_images, read_image, read_mask

pytestmark = pytest.mark.unit


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    stored = Image.new("RGB", (4, 2), "blue")
    stored.paste("red", (0, 0, 2, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    stored.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert upright.size == (2, 4)
    assert upright.getpixel((0, 0)) == (255, 0, 0)
    assert upright.getpixel((0, 3)) == (0, 0, 255)


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], dtype=np.uint8)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (3, 2), "white").convert(mode).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert np.asarray(image).min() >= 250


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_a_truncated_image_is_refused_and_not_filled_with_grey(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 60).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded"):
        read_image(tmp_path / "a.jpg")


def test_a_mask_gives_its_indices_and_not_its_colours(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 15, 255]], dtype=np.uint8)
    mask = Image.fromarray(indices)
    mask.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    mask.save(tmp_path / "palette.png")
    Image.fromarray(indices).save(tmp_path / "grey.png")
    Image.fromarray(indices.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("palette", "grey", "deep"):
        assert read_mask(tmp_path / f"{name}.png").tolist() == indices.tolist(), name


def test_a_mask_of_colours_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="mode RGB, but a mask holds one class index per pixel"):
        read_mask(tmp_path / "a.png")


def test_an_index_beyond_a_byte_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[300]], dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="index 300"):
        read_mask(tmp_path / "a.png")


def test_images_of_a_folder_are_sorted_and_hidden_files_left_out(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", ".d.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == [
        "a.PNG",
        "b.jpg",
        "sub/c.webp",
    ]
