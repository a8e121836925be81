"""Reading image and mask files of every mode that people have."""

from collections.abc import Callable
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


def test_a_photograph_taken_upright_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8  # turn by 90 degrees anticlockwise to see it upright
    stored = Image.new("RGB", (32, 16), "blue")
    stored.paste("red", (0, 0, 16, 16))
    stored.save(tmp_path / "a.jpg", quality=95, exif=exif)
    upright = read_image(tmp_path / "a.jpg")
    assert upright.size == (16, 32)
    assert np.asarray(upright)[4, 8].argmax() == 2  # blue on top
    assert np.asarray(upright)[28, 8].argmax() == 0


def test_webp_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (10, 200, 30)).save(tmp_path / "a.webp", lossless=True)
    image = read_image(tmp_path / "a.webp")
    assert (image.mode, image.size, image.getpixel((2, 1))) == ("RGB", (3, 2), (10, 200, 30))


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    later = [Image.new("RGB", (4, 4), "green")]
    Image.new("RGB", (4, 4), "red").save(
        tmp_path / "a.webp", save_all=True, append_images=later, lossless=True
    )
    assert read_image(tmp_path / "a.webp").getpixel((0, 0)) == (255, 0, 0)


def test_a_transparent_palette_colour_becomes_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=0)
    assert np.asarray(read_image(tmp_path / "a.png")).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_an_image_too_large_to_decode_safely_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded: .*decompression bomb"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_an_absent_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.png does not exist"):
        read(tmp_path / "a.png")


def test_a_mask_of_one_bit_holds_the_classes_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert (mask.dtype, mask.tolist()) == (np.uint8, [[0, 1]])


@pytest.mark.parametrize("index", [-1, -256, 256, 65536])
def test_a_wide_index_is_refused_and_never_wrapped_around(tmp_path: Path, index: int) -> None:
    Image.fromarray(np.array([[1, index, 2]], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"index {index}, but indices go from 0 to 255"):
        read_mask(tmp_path / "a.tif")


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a.png").touch()
    assert list(list_images(tmp_path)) == []


def test_a_folder_below_a_hidden_one_may_still_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / ".cache" / "photos").mkdir(parents=True)
    (tmp_path / ".cache" / "photos" / "a.png").touch()
    assert [path.name for path in list_images(tmp_path / ".cache" / "photos")] == ["a.png"]
