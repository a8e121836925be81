"""What can be segmented, as it is named: files, folders, patterns, standard input, a camera, pictures."""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TypeGuard

from segdistill.data.formats.tar import COMPRESSED, TAR
from segdistill.data.images import SUFFIXES, EmbeddedBytes, File, list_images
from segdistill.data.pictures import Picture, PictureInMemory

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"})
STANDARD_INPUT = "-"
"""The name of an image whose bytes come from standard input; a file of this name is ./-."""
STANDARD_INPUT_BYTES = 2**30
"""Most bytes that are read from it."""
CAMERA = re.compile(r"camera(?::(\d+))?", re.ASCII)
"""The name of a camera: camera:1, or camera for the first, camera:0."""
URL = re.compile(r"[a-z][a-z0-9+.-]+:/+", re.IGNORECASE)  # not C:/, a drive


@dataclass(frozen=True)
class Camera:
    """A camera of this machine, which takes the place of a video; 0 is the first."""

    number: int

    def __str__(self) -> str:
        return f"camera:{self.number}"


Source = File | PictureInMemory | Camera
"""What is segmented: an image, or a video."""


def find_inputs(given: Iterable[Picture]) -> Iterator[tuple[Source, Path]]:
    """Each image and video of what is named, with the relative path (without suffix) that its outputs get.

    Beside what `find_images` finds, "-" is an image from standard input, `camera` or `camera:1` a camera
    unless a file has this name, and a picture in memory is called `image_2` where it is the third one given.

    Raises:
        FileNotFoundError, ValueError: as `find_images` and `require_inputs`; or a picture in memory is none.
    """
    given = list(given)
    require_inputs(one for one in given if isinstance(one, str | Path))
    for place, one in enumerate(given):
        if not isinstance(one, str | Path):
            name = f"image_{place}"
            yield PictureInMemory(one, name), Path(name)
        elif one == STANDARD_INPUT:
            yield _read_standard_input(), Path("stdin")
        elif camera := find_camera(one):
            yield camera, Path(f"camera_{camera.number}")
        else:
            yield from find_images([one])


def require_inputs(given: Iterable[str | Path]) -> None:
    """Refuse what its name alone shows not to be there, before anything is read; see `find_inputs`.

    Raises:
        FileNotFoundError: a path does not exist, or no file matches a pattern.
        ValueError: a name is a URL, or "-" is there twice or nothing is piped into it.
    """
    names = list(given)
    if STANDARD_INPUT in names:
        if names.count(STANDARD_INPUT) > 1:
            raise ValueError(f"{STANDARD_INPUT} is named twice, but standard input holds one image")
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError(
                f"{STANDARD_INPUT} is an image from standard input, which is a terminal: add < photo.jpg, "
                "or pipe one into the command"
            )
    for name in names:
        if name != STANDARD_INPUT and find_camera(name) is None:
            expand(name)


def find_images(given: Iterable[str | Path]) -> Iterator[tuple[Path, Path]]:
    """Each image of files, folders and patterns, with the relative path (without suffix) of its outputs.

    Raises:
        FileNotFoundError: a path does not exist, a folder holds no image, or no file matches a pattern.
        ValueError: a path is a tar file, or a URL.
    """
    for one in given:
        for path in expand(one):
            if path.name.lower().endswith((TAR, *COMPRESSED)):
                unpack = f"`tar -xf {path} -C photos`"
                raise ValueError(f"{path} is a tar file: unpack it into a folder, {unpack}, and name that")
            if path.is_dir():
                found = list(list_images(path))
                if not found:
                    raise FileNotFoundError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))})")
                yield from ((image, image.relative_to(path).with_suffix("")) for image in found)
            elif not path.is_file():
                raise FileNotFoundError(f"{path} is neither a file nor a folder")
            elif path == Path(one):
                yield path, Path(path.stem)
            else:
                yield path, path.relative_to(_root(one)).with_suffix("")


def expand(given: str | Path) -> list[Path]:
    """A path that exists; else the files that match it as a pattern, with `*`, `?`, `[ab]` and `**`, sorted.

    Of the files that match, images and videos by their suffixes; all of them where there is none.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is a URL.
    """
    path, name = Path(given), str(given)
    if path.exists():
        return [path]
    if URL.match(name):
        url = re.sub(":/+", "://", path.as_posix() if isinstance(given, Path) else name, count=1)
        raise ValueError(f"{url} is a URL, but images are read from files: download it, and name the file")
    if not has_magic(name):
        raise FileNotFoundError(f"{given} does not exist")
    found = sorted(one for one in map(Path, glob(name, recursive=True)) if one.is_file())  # noqa: PTH207  # patterns may be absolute
    if not found:
        raise FileNotFoundError(f"{given} does not exist, and no file matches it as a pattern")
    return [one for one in found if one.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES] or found


def _root(pattern: str | Path) -> Path:
    """The folder of a pattern in which its first `*`, `?` or `[` is."""
    parts = Path(pattern).parts
    return Path(*parts[: next(place for place, part in enumerate(parts) if has_magic(part))])


def find_camera(name: str | Path) -> Camera | None:
    """The camera of a name; None where that is another one, or there is such a file or folder."""
    found = CAMERA.fullmatch(name) if isinstance(name, str) else None
    return None if found is None or Path(name).exists() else Camera(int(found[1] or 0))


def is_video(source: Source) -> TypeGuard[Path | Camera]:
    """Whether it has frames."""
    return isinstance(source, Camera) or (
        isinstance(source, Path) and source.suffix.lower() in VIDEO_SUFFIXES
    )


def _read_standard_input() -> EmbeddedBytes:
    """The image whose bytes are piped in.

    Raises:
        ValueError: there are none, or too many.
    """
    data = sys.stdin.buffer.read(STANDARD_INPUT_BYTES + 1)
    if not data:
        raise ValueError(f"{STANDARD_INPUT} is an image from standard input, which is empty")
    if len(data) > STANDARD_INPUT_BYTES:
        raise ValueError(f"standard input has more than {STANDARD_INPUT_BYTES:,} bytes: name a file instead")
    return EmbeddedBytes(Path(STANDARD_INPUT), "standard input", data)
