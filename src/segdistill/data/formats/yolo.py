"""Reads polygons as YOLO has them: a data.yaml, and a text file with normalised points for each image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from segdistill.config.prompts import BACKGROUND
from segdistill.data.formats.classes import ClassMap
from segdistill.data.formats.layout import (
    DESCRIPTION,
    LIST_BYTES,
    FileList,
    Layout,
    UnknownSplitError,
    find_description,
    leads_out,
    require_split,
)
from segdistill.data.images import list_images
from segdistill.data.labels import class_name, label_set, read_yaml
from segdistill.data.masks import Mask, MaskReader, SampleFiles, drawn_size
from segdistill.data.polygons import FAR, Runs, draw, load_rasteriser, polygon_runs
from segdistill.files import read_text

DATA = "data.yaml"
"""Name of the file that describes a data set, in its folder."""
SPLITS = ("test", "train", "val")
"""Its keys that name folders of images, or lists of them."""


class YoloLayout(Layout):
    """Images in folders called images, polygons at the same places below folders called labels.

    Args:
        root: the folder that the description's paths are below.
        source: the description's file.
        description: `names` and one or more of `train`, `val` and `test`, perhaps `classes`; other
            keys are left alone.

    Raises:
        ValueError: pycocotools is not installed, or the description is wrong.
    """

    described_by = DATA
    val_is_path = True
    title = "YOLO's polygons"
    signs = f"{DATA} with `names` and `train`, `val` or `test`"
    same_images = "has the same images as `train` and as `val`"
    to_divide = "name others as `val`"

    def __init__(self, root: Path, source: Path, description: dict[str, Any]) -> None:
        load_rasteriser()
        self.root, self.source, self.description = root, source, description
        self.one_split = description.get("train") is not None and description.get("train") == description.get(
            "val"
        )
        names = description["names"]
        if isinstance(names, dict):
            if set(names) != set(range(len(names))):
                raise ValueError(f"{source}: `names` must have the numbers 0 to {len(names) - 1}, each once")
            names = [names[number] for number in range(len(names))]
        elif not isinstance(names, list):
            raise ValueError(f"{source}: `names` must list the class names")
        if description.get("nc", len(names)) != len(names):
            raise ValueError(f"{source}: nc is {description['nc']}, but `names` has {len(names)} classes")
        texts = [class_name(name) for name in names]
        labels = [BACKGROUND, *(name for name in texts if name != BACKGROUND)]
        classes = ClassMap(description, label_set({"names": labels}, str(source)), str(source))
        self.labels = classes.labels
        self.reader = classes.reader(YoloMasks([labels.index(name) for name in texts]))

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The data set whose data.yaml lies in `folder`, or is named; a dataset.yaml in it comes first."""
        if description is None and (folder / DESCRIPTION).is_file():
            return None
        described = find_description(description, folder / DATA)
        if described is None:
            return None
        content = read_yaml(described)
        if "names" not in content or not content.keys() & set(SPLITS):
            return None
        return cls(folder, described, content)

    def splits(self) -> list[str]:
        """Those of train, val and test that the description has."""
        return [split for split in SPLITS if isinstance(self.description.get(split), str | list)]

    def list_files(self, split: str) -> FileList:
        """The images of a split, and where their polygons are or would be."""
        require_split(self, split)
        value = self.description[split]
        paths = [path for one in (value if isinstance(value, list) else [value]) for path in self.images(one)]
        relative = [path.relative_to(self.root) for path in paths]
        labels = [self.root / label_file(path) for path in relative]
        if labels and not any(path.is_file() for path in labels):
            raise FileNotFoundError(
                f"none of the {len(labels)} images of split {split!r} has polygons; those of the first would "
                f"be in {labels[0]}"
            )
        return FileList([path.with_suffix("").as_posix() for path in relative], paths, labels, self.reader)

    def images(self, value: Any) -> Iterator[Path]:
        """The images below a folder, or in a list file, that a split names.

        Raises:
            UnknownSplitError: there is no such folder or file.
            ValueError: it, or an image, is outside the data set's folder.
        """
        path = self.root / self.inside(value)
        if path.suffix == ".txt" and path.is_file():
            lines = (line.strip() for line in read_text(path, LIST_BYTES).splitlines())
            yield from (self.root / self.inside(line) for line in lines if line)
        elif path.is_dir():
            yield from list_images(path)
        else:
            raise UnknownSplitError(f"{path}, named in {self.source}, is neither a folder nor a list (.txt)")

    def inside(self, value: Any) -> str:
        """A path below the root; one leading `../` is dropped, which exports have for another folder."""
        text = value.removeprefix("../") if isinstance(value, str) else ""
        if not text or leads_out(text):
            raise ValueError(
                f"{self.source}: {str(value)[:200]!r} must be a path below {self.root}, without .."
            )
        return text


def label_file(image: Path) -> Path:
    """Where the polygons of an image are: below labels instead of images, or beside it where it is not so."""
    parts = list(image.with_suffix(".txt").parts)
    folders = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts)


class YoloMasks(MaskReader):
    """Masks that are drawn from a text file when they are read; an image without one is background.

    Args:
        indices: index of each class number in the files.
    """

    optional = True

    def __init__(self, indices: list[int]) -> None:
        self.indices = {str(number): index for number, index in enumerate(indices)}
        self.form = f"yolo {indices}"

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The polygons of an image, the smaller on top."""
        assert isinstance(files.mask, Path)
        height, width = drawn_size(files, size)
        drawn = []
        lines = read_text(files.mask).splitlines() if files.mask.is_file() else []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    drawn.append(self.read_line(line.split(), (height, width)))
                except ValueError as error:
                    raise ValueError(f"line {number} of {files.mask}: {error}") from None
        return draw(drawn, (height, width))

    def read_line(self, fields: list[str], size: tuple[int, int]) -> tuple[int, Runs]:
        """Index and runs of one line: the class, then x and y of each point as fractions of W and H.

        Raises:
            ValueError: it is something else.
        """
        if fields[0] not in self.indices:
            raise ValueError(f"the class is {fields[0][:50]!r}, but classes are 0 to {len(self.indices) - 1}")
        points = [float(field) for field in fields[1:]]
        if len(points) < 6:
            raise ValueError(
                f"a polygon has three points or more, but {len(points)} numbers follow the class (a box, "
                "which has four, cannot be learned from)"
            )
        far = next((value for value in points if not -FAR <= value <= 1 + FAR), None)
        if far is not None:
            raise ValueError(
                f"the coordinate {far:g} is not normalised: x and y are fractions of width and height"
            )
        pixels = [value * size[1 - place % 2] for place, value in enumerate(points)]
        runs = polygon_runs([pixels], size)
        assert runs is not None, "three points or more"
        return self.indices[fields[0]], runs
