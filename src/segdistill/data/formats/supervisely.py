"""Reads a project as Supervisely exports it: meta.json, and folders of images with a JSON file for each."""

import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from segdistill.data.formats.annotation_files import AnnotationMasks, decode_base64
from segdistill.data.formats.layout import (
    FileList,
    Layout,
    labels_after_background,
    read_classes_only,
    require_split,
)
from segdistill.data.images import MOST_PIXELS, EmbeddedBytes, list_images, read_bitmap
from segdistill.data.labels import LabelSet, class_name
from segdistill.data.masks import Colour, MaskReader
from segdistill.data.polygons import Points, Region, fill_with_border, place_bitmap, read_points
from segdistill.files import read_json

META = "meta.json"
"""Name of the file that lists the classes."""
IMAGES, ANNOTATIONS, NESTED = "img", "ann", "datasets"
"""Folders of a data set in a project; the last one holds further data sets."""
COLOUR = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")


class SuperviselyLayout(Layout):
    """Data sets of a project, which are splits: images in SPLIT/img, shapes in SPLIT/ann/IMAGE.json.

    Args:
        root: the folder of the project.
        labels: the classes.
        reader: of the JSON files.
    """

    title = "a Supervisely project"
    signs = f"{META} beside folders that hold {ANNOTATIONS}"
    same_images = "is one data set of a project"
    to_divide = "put validation images into a data set of their own"

    def __init__(self, root: Path, labels: LabelSet, reader: MaskReader) -> None:
        self.root, self.labels, self.reader = root, labels, reader
        self.one_split = len(self.splits()) == 1

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The project that `folder` is; a dataset.yaml comes first where it holds more than `classes`."""
        if not (folder / META).is_file() or not find_datasets(folder):
            return None
        files = read_meta(folder / META)
        classes = read_classes_only(folder, description, files)
        if classes is None:
            return None
        indices = {name: index for index, name in enumerate(files.names)}
        return cls(folder, classes.labels, classes.reader(SuperviselyMasks(indices, str(folder / META))))

    def splits(self) -> list[str]:
        """Names of the data sets; those in others are called OUTER/INNER."""
        return sorted(find_datasets(self.root))

    def list_files(self, split: str) -> FileList:
        """The images of a data set, each with its JSON file."""
        require_split(self, split)
        folder = find_datasets(self.root)[split]
        found = list(list_images(folder / IMAGES))
        names = [path.relative_to(folder / IMAGES).as_posix() for path in found]
        # With the suffix: a project may hold a.jpg and a.png.
        masks = [folder / ANNOTATIONS / f"{name}.json" for name in names]
        return FileList(names, found, masks, self.reader)


def find_datasets(folder: Path, before: str = "") -> dict[str, Path]:
    """Name and folder of each data set in a project, or in another one called `before`."""
    found: dict[str, Path] = {}
    for path in folder.iterdir():
        if (path / ANNOTATIONS).is_dir() and (path / IMAGES).is_dir():
            found[before + path.name] = path
        if (path / NESTED).is_dir():
            found |= find_datasets(path / NESTED, f"{before}{path.name}/")
    return found


def read_meta(path: Path) -> LabelSet:
    """The classes in a project's meta.json, in their order after the background.

    Raises:
        ValueError: it is another file, or the classes are impossible.
    """
    content = read_json(path)
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(classes, list) or not all(isinstance(one, dict) and "title" in one for one in classes):
        raise ValueError(f"{path} has no list `classes` with a `title` each: it is no project's")
    colours: dict[str, Colour] = {}
    for one in classes:
        if shown := COLOUR.fullmatch(str(one.get("color"))):
            red, green, blue = (int(part, 16) for part in shown.groups())
            colours[class_name(one["title"])] = (red, green, blue)
    return labels_after_background((one["title"] for one in classes), str(path), colours)


class SuperviselyMasks(AnnotationMasks):
    """Masks of a project's objects, with the pixels that Supervisely's own Python package gives them.

    https://docs.supervisely.com/data-organization/00_ann_format_navi
    """

    list_key, name_key = "objects", "classTitle"

    def stored_size(self, content: dict[str, Any]) -> tuple[Any, Any]:
        """H, W."""
        size = content.get("size")
        return (size.get("height"), size.get("width")) if isinstance(size, dict) else (None, None)

    def region(self, shape: dict[str, Any], size: tuple[int, int], file: Path) -> Region:
        """A polygon without its holes, a rectangle, or a bitmap; other shapes are refused."""
        kind = shape.get("geometryType") or ("bitmap" if shape.get("bitmap") else "polygon")
        if kind == "bitmap":
            return self.bitmap(shape.get("bitmap"), size, file)
        if kind not in ("polygon", "rectangle"):
            raise ValueError(
                f"the geometry {str(kind)[:50]!r} has no area; polygon, rectangle and bitmap have one"
            )
        stored = shape.get("points")
        stored = stored if isinstance(stored, dict) else {}
        holes = stored.get("interior") or []
        if not isinstance(holes, list):
            raise ValueError("`interior` is no list of holes")
        if kind == "polygon":
            outer = whole_points(stored.get("exterior"), size)
            return fill_with_border(outer, [whole_points(hole, size) for hole in holes], size)
        (left, top), (right, bottom) = whole_points(stored.get("exterior"), size, least=2)[:2]
        return fill_with_border([(left, top), (right, top), (right, bottom), (left, bottom)], [], size)

    def bitmap(self, stored: Any, size: tuple[int, int], file: Path) -> Region:
        """The pixels of a bitmap: a PNG file, mostly compressed once more, in base64; and its place."""
        stored = stored if isinstance(stored, dict) else {}
        origin = stored.get("origin")
        if not (
            isinstance(origin, list) and len(origin) == 2 and all(isinstance(v, int | float) for v in origin)
        ):
            raise ValueError("its bitmap has no `origin` [x, y]")
        data = decode_base64(stored.get("data"))
        with suppress(zlib.error):  # not all are compressed; bounded, for a few bytes can stand for gigabytes
            data = zlib.decompressobj().decompress(data, MOST_PIXELS)
        region = read_bitmap(EmbeddedBytes(file, "its bitmap", data))
        return place_bitmap(region, int(origin[0]), int(origin[1]), size)


def whole_points(points: Any, size: tuple[int, int], least: int = 3) -> Points:
    """The points of a shape as pixels, without fractions, as Supervisely's package reads them."""
    return [(int(x), int(y)) for x, y in read_points(points, size, least)]
