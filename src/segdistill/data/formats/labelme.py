"""Reads what labelme saves: a JSON file of shapes beside each image."""

import math
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, Self

from segdistill.config.prompts import BACKGROUND
from segdistill.data.formats.annotation_files import (
    JSON_BYTES,
    AnnotationMasks,
    decode_base64,
    read_annotation,
)
from segdistill.data.formats.classes import CLASS_KEYS, ClassMap
from segdistill.data.formats.layout import (
    ALL,
    DESCRIPTION,
    FileList,
    Layout,
    find_description,
    labels_after_background,
    require_split,
)
from segdistill.data.images import EmbeddedBytes, list_images, read_bitmap
from segdistill.data.labels import VOID, label_set, read_yaml
from segdistill.data.polygons import Region, fill_circle, fill_polygon, place_bitmap, read_points
from segdistill.files import read_text

KEYS = CLASS_KEYS | {"names", "palette"}
"""What a dataset.yaml of such a folder may hold."""
LABEL_LIST = "labels.txt"
"""Name of the file with a class on each line, which labelme is started with."""
LABELME_BACKGROUND, LABELME_IGNORE = "_background_", "__ignore__"
"""What labelme calls the background, and pixels without a label."""
LEAST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "oriented_rectangle": 4, "mask": 1}
"""Types of shapes that have an area, and how many points each has at least."""


class LabelmeLayout(Layout):
    """Images with a JSON file of shapes beside each; several folders of these are splits.

    Args:
        root: the folder.
        source: the description, or the file of class names, or the folder where there is none.
        description: may hold `names`, `palette` and `classes`.
    """

    title = "labelme's JSON"
    signs = "JSON files with `shapes` and `imagePath`, here or in the folders here"
    same_images = "is one folder of labelme's files"
    to_divide = "move them into folders, such as train and val"

    def __init__(self, root: Path, source: Path, description: dict[str, Any]) -> None:
        self.root = root
        self.folders = find_folders(root)
        self.one_split = len(self.folders) == 1
        if "names" in description:
            files = label_set(description, str(source))
        else:
            files = labels_after_background(self.find_names(), str(source), {})
        classes = ClassMap(description, files, str(source))
        self.labels = classes.labels
        indices = {name: index for index, name in enumerate(files.names)}
        indices |= {LABELME_IGNORE: VOID, LABELME_BACKGROUND: indices.get(BACKGROUND, 0)}
        self.reader = classes.reader(LabelmeMasks(indices, str(source)))

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The data set that `folder` is; a dataset.yaml comes first where it holds paths."""
        described = find_description(description, folder / DESCRIPTION)
        content = read_yaml(described) if described else {}
        if not content.keys() <= KEYS:
            return None
        # Not deeper: the folder may be anything, and a walk through all that is below it may take minutes.
        first = next((path for form in ("*.json", "*/*.json") for path in folder.glob(form)), None)
        if first is None or not is_labelme(first):
            return None
        label_list = folder / LABEL_LIST
        return cls(folder, described or (label_list if label_list.is_file() else folder), content)

    def find_names(self) -> list[str]:
        """The classes in labels.txt, in its order; without it, those of all shapes, sorted."""
        label_list = self.root / LABEL_LIST
        if label_list.is_file():
            lines = [line.strip() for line in read_text(label_list).splitlines()]
            return [line for line in lines if line and line not in (LABELME_IGNORE, LABELME_BACKGROUND)]
        found: set[str] = set()
        for path in annotation_files(self.root):
            shapes = read_annotation(path, "shapes")["shapes"]
            found |= {str(shape.get("label")) for shape in shapes if isinstance(shape, dict)}
        return sorted(found - {LABELME_IGNORE, LABELME_BACKGROUND})

    def splits(self) -> list[str]:
        """The folders that hold JSON files, where there are several; else `ALL`."""
        return [ALL] if self.one_split else sorted(path.name for path in self.folders)

    def list_files(self, split: str) -> FileList:
        """The JSON files of a split and their images; an image without a file was not annotated."""
        require_split(self, split)
        folder = self.folders[0] if self.one_split else self.root / split
        images = {path.with_suffix(""): path for path in list_images(folder)}
        masks = sorted(annotation_files(folder))
        ids = [path.relative_to(folder).with_suffix("").as_posix() for path in masks]
        found = [images.get(path.with_suffix("")) or self.find_image(path) for path in masks]
        return FileList(ids, found, masks, self.reader)

    def find_image(self, path: Path) -> Path:
        """The image that a JSON file names, which has another name than the file.

        Raises:
            ValueError: it is outside the data set.
        """
        named = read_annotation(path, "shapes").get("imagePath")
        if not isinstance(named, str) or not named:
            raise ValueError(f"{path} has no `imagePath`, and no image lies beside it")
        # Names of Windows have another separator.
        image = (path.parent / PureWindowsPath(named).as_posix()).resolve()
        if not image.is_relative_to(self.root.resolve()):
            raise ValueError(f"{path} names the image {named!r}, which is outside the data set {self.root}")
        return image


def annotation_files(folder: Path) -> Iterator[Path]:
    """The JSON files below a folder; hidden ones and those in hidden folders are left out."""
    for path in folder.rglob("*.json"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def find_folders(root: Path) -> list[Path]:
    """The folders of JSON files: `root` where it holds one, else those in it that do, sorted."""
    if any(root.glob("*.json")):
        return [root]
    return sorted(path for path in root.iterdir() if any(path.glob("*.json")))


def is_labelme(path: Path) -> bool:
    """Whether a JSON file, which may be damaged, is one of labelme."""
    try:
        text = read_text(path, JSON_BYTES)
    except (ValueError, OSError):  # too large, or not UTF-8, or a folder of that name: of another tool
        return False
    return '"shapes"' in text and '"imagePath"' in text


class LabelmeMasks(AnnotationMasks):
    """Masks of labelme's shapes, with the pixels that labelme's own `shapes_to_label` gives them.

    https://github.com/wkentaro/labelme/blob/main/labelme/utils/shape.py
    """

    list_key, name_key = "shapes", "label"

    def stored_size(self, content: dict[str, Any]) -> tuple[Any, Any]:
        """H, W; files of old versions have none."""
        return content.get("imageHeight"), content.get("imageWidth")

    def region(self, shape: dict[str, Any], size: tuple[int, int], file: Path) -> Region:
        """A polygon, rectangle, circle or bitmap; lines and points have no area and are refused."""
        kind = shape.get("shape_type") or "polygon"
        if kind not in LEAST_POINTS:
            raise ValueError(
                f"a shape of type {str(kind)[:50]!r} has no area; types are {', '.join(LEAST_POINTS)}"
            )
        points = read_points(shape.get("points"), size, LEAST_POINTS[kind])
        if kind == "mask":
            data = decode_base64(shape.get("mask"))
            bitmap = read_bitmap(EmbeddedBytes(file, "its bitmap", data))
            return place_bitmap(bitmap, int(points[0][0]), int(points[0][1]), size)
        if kind == "rectangle":
            (left, top), (right, bottom) = points[:2]
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        if kind == "circle":
            return fill_circle(points[0], math.dist(*points[:2]), size)
        return fill_polygon(points, size)
