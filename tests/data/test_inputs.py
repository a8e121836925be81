"""What can be segmented is found by its name: files, folders, patterns, standard input, cameras, pictures."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.data import inputs
from segdistill.data.images import EmbeddedBytes
from segdistill.data.inputs import Camera, find_images, find_inputs, is_video, require_inputs
from segdistill.data.pictures import PictureInMemory

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with pictures below it that nobody opens."""
    for name in ("a/1.jpg", "a/2.PNG", "a/notes.txt", "a/b/3.jpg", "a/.hidden.jpg", "a/clip.mp4", "a/x.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Piped(io.TextIOWrapper):
    """Standard input with bytes in it."""

    def __init__(self, data: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_images_are_found_in_files_and_folders(tmp_path: Path) -> None:
    for name in ("a.jpg", "v1.2.png", "sub/b.PNG", ".hidden.png", "sub/.git/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = list(find_images([tmp_path, str(tmp_path / "sub" / "b.PNG")]))
    assert [name.as_posix() for _, name in found] == ["a", "sub/b", "v1.2", "b"]
    assert found[1][0] == found[3][0] == tmp_path / "sub" / "b.PNG"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        list(find_images([tmp_path / "nowhere"]))
    with pytest.raises(FileNotFoundError, match=r"holds no images \(.*\.jpg, .*\.png"):
        list(find_images([tmp_path]))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/*.jpg", {"a/1.jpg": "1"}),
        ("a/*", {"a/1.jpg": "1", "a/2.PNG": "2", "a/clip.mp4": "clip"}),
        ("a/**/*.jpg", {"a/1.jpg": "1", "a/b/3.jpg": "b/3"}),
        ("**/*.jpg", {"a/1.jpg": "a/1", "a/b/3.jpg": "a/b/3"}),
        ("*/[13].jpg", {"a/1.jpg": "a/1"}),
        ("./a/?.jpg", {"a/1.jpg": "1"}),
        ("a/*.gif", {"a/x.gif": "x"}),
        ("a/*.[gt]*", {"a/notes.txt": "notes", "a/x.gif": "x"}),
    ],
)
def test_a_pattern_stands_for_the_files_that_match(
    folder: Path, pattern: str, expected: dict[str, str]
) -> None:
    found = {path.as_posix(): name.as_posix() for path, name in find_images([pattern])}
    assert found == expected
    absolute = {path: name.as_posix() for path, name in find_images([folder / pattern])}
    assert absolute == {folder / path: name for path, name in expected.items()}


def test_a_name_that_exists_is_no_pattern(folder: Path) -> None:
    (folder / "a" / "[1].jpg").touch()
    assert [path.name for path, _ in find_images(["a/[1].jpg"])] == ["[1].jpg"]


def test_a_pattern_without_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a/\*\.webp does not exist, and no file matches it"):
        list(find_images(["a/*.webp"]))


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("url", ["https://example.org/a?b=1.jpg", "s3://photos/*.jpg"])
def test_a_url_is_named_as_it_was_given(url: str, kind: type) -> None:
    message = f"{url} is a URL, but images are read from files: download it, and name the file"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        list(find_inputs([kind(url)]))


def test_standard_input_is_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(b"encoded"))
    require_inputs(["-"])  # which reads nothing
    [(source, name)] = find_inputs(["-"])
    assert isinstance(source, EmbeddedBytes)
    assert (source.read_bytes(), str(source), str(name)) == (b"encoded", "standard input", "stdin")
    with pytest.raises(ValueError, match="standard input, which is empty"):
        list(find_inputs(["-"]))
    with pytest.raises(ValueError, match="named twice"):
        require_inputs(["-", "-"])
    monkeypatch.setattr(inputs, "STANDARD_INPUT_BYTES", 3)
    monkeypatch.setattr(sys, "stdin", Piped(b"encoded"))
    with pytest.raises(ValueError, match="more than 3 bytes"):
        list(find_inputs(["-"]))
    monkeypatch.setattr(sys, "stdin", Piped(b"", terminal=True))
    with pytest.raises(ValueError, match=r"a terminal: add < photo\.jpg"):
        require_inputs(["-"])


def test_cameras_have_numbers_and_files_go_first(folder: Path) -> None:
    found = list(find_inputs(["camera", "camera:12"]))
    assert found == [(Camera(0), Path("camera_0")), (Camera(12), Path("camera_12"))]
    assert all(is_video(source) for source, _ in found)
    with pytest.raises(FileNotFoundError, match="camera:x does not exist"):
        require_inputs(["camera:x"])
    with pytest.raises(FileNotFoundError, match="camera does not exist"):
        list(find_images(["camera"]))
    (folder / "camera").mkdir()
    (folder / "camera" / "1.jpg").touch()
    assert [str(name) for _, name in find_inputs(["camera"])] == ["1"]


def test_pictures_in_memory_are_named_by_their_place(folder: Path) -> None:
    array = np.zeros((4, 6, 3), np.uint8)
    found = list(find_inputs([array, "a/1.jpg", Image.fromarray(array)]))
    assert [str(name) for _, name in found] == ["image_0", "1", "image_2"]
    for source in (found[0][0], found[2][0]):
        assert isinstance(source, PictureInMemory)
        assert source.size == source.decode().size == (6, 4)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            np.zeros((4, 6), np.uint8),
            r"image_1: an array has the shape \(4, 6\) of uint8, but must be H x W x",
        ),
        (None, "image_1: a picture is a NoneType, but must be a PIL image, an array or a path"),
    ],
)
def test_what_is_no_picture_is_named_by_its_place(folder: Path, picture: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(find_inputs(["a/1.jpg", picture]))
