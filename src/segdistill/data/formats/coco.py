"""Reads instances in COCO's JSON, which a dataset.yaml names, as masks of their categories."""

from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from segdistill.config.prompts import BACKGROUND
from segdistill.data.formats.classes import CLASS_KEYS, ClassMap
from segdistill.data.formats.layout import (
    DESCRIPTION,
    SPLIT,
    FileList,
    Layout,
    find_description,
    find_splits,
    leads_out,
    read_description,
    read_path,
    require_unique,
)
from segdistill.data.formats.packed import PackedEntries
from segdistill.data.labels import VOID, LabelSet, class_name, label_set, read_yaml
from segdistill.data.masks import Mask, MaskReader, SampleFiles, drawn_size
from segdistill.data.polygons import Runs, draw, load_rasteriser, polygon_runs, stored_runs
from segdistill.files import read_json

KEYS = CLASS_KEYS | {"names", "palette", "annotations", "images"}
FIELDS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
"""What each entry of the JSON file's lists must have."""
JSON_BYTES = 2**31
"""Largest file of annotations; COCO's own have half a gigabyte."""


class CocoLayout(Layout):
    """Images in folders, and a JSON file of instances for each split.

    Args:
        root: the folder that the description's paths are below.
        source: the description's file.
        description: `annotations` is the JSON file, `images` a folder; absent `names` are those
            of the smallest file.

    Raises:
        ValueError: pycocotools is not installed, the description is wrong, or there is no JSON file.
    """

    title = "COCO's JSON"
    signs = f"{DESCRIPTION} with `annotations`"
    to_divide = "put {split} into `annotations`"

    def __init__(self, root: Path, source: Path, description: dict[str, Any]) -> None:
        load_rasteriser()
        self.root, self.source = root, source
        self.annotations = read_path(description, "annotations", source, root)
        self.images = read_path(description, "images", source, root)
        self.one_split = SPLIT not in self.annotations
        if "names" not in description:
            description = {**description, "names": self.find_names()}
        self.categories = label_set(description, str(source))
        self.classes = ClassMap(description, self.categories, str(source))
        self.labels = self.classes.labels

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The data set whose description, in `folder` or named, names annotations."""
        described = find_description(description, folder / DESCRIPTION)
        if described is None or "annotations" not in read_yaml(described):
            return None
        return cls(folder, described, read_description(described, KEYS))

    def find_names(self) -> list[str]:
        """The categories of the smallest JSON file, in the order of their ids, after the background."""
        files = [self.root / self.annotations.replace(SPLIT, split) for split in self.splits()]
        found = sorted((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
        if not found:
            raise ValueError(f"{self.source}: there is no file {self.root / self.annotations}")
        categories = read_instances(found[0])["categories"]
        names = [
            str(one["name"])
            for one in sorted(categories, key=lambda one: (isinstance(one["id"], str), one["id"]))
        ]
        return [BACKGROUND, *(name for name in names if class_name(name) != BACKGROUND)]

    def splits(self) -> list[str]:
        """What `{split}` can stand for in the path of the annotations; [ALL] where it is not in it."""
        return find_splits(self.root, self.annotations, folders=False)

    def list_files(self, split: str) -> FileList:
        """The images that the JSON file of a split lists, those without an instance included."""
        path = self.root / self.annotations.replace(SPLIT, split)
        if not path.is_file():
            raise self.no_split(split, f"{path} does not exist")
        instances = read_instances(path)
        folder = self.root / self.images.replace(SPLIT, split)
        files = [str(image["file_name"]) for image in instances["images"]]
        outside = next(filter(leads_out, files), None)
        if outside is not None:
            raise ValueError(f"{path} lists the image {outside!r}, which is outside the data set")
        ids = [Path(name).with_suffix("").as_posix() for name in files]
        require_unique(ids, path)
        reader = self.classes.reader(CocoMasks(self.categories, ids, instances, path))
        return FileList(ids, [folder / name for name in files], [path] * len(ids), reader)


class CocoMasks(MaskReader):
    """Masks that are drawn from annotations when they are read.

    Args:
        labels: the classes, which the categories have the names of.
        ids: of the samples, in the order of the images in `instances`.
        instances: what the JSON file holds.
        source: the JSON file.

    Raises:
        ValueError: an annotation has no category, or one that is no class.
    """

    def __init__(self, labels: LabelSet, ids: list[str], instances: dict[str, Any], source: Path) -> None:
        self.form = f"coco {list(labels.names)}"
        classes = {name: index for index, name in enumerate(labels.names)}
        names = {one["id"]: str(one["name"]) for one in instances["categories"]}
        names = {number: class_name(name) for number, name in names.items()}
        regions: defaultdict[Any, list[list[Any]]] = defaultdict(list)
        for one in instances["annotations"]:
            name = names.get(one["category_id"])
            if name is None:
                raise ValueError(
                    f"{source}: annotation {one.get('id')} has the unknown category {one['category_id']}"
                )
            if name not in classes:
                raise ValueError(
                    f"{source}: annotation {one.get('id')} has the category {name!r}, but the classes are "
                    f"{', '.join(classes)}: add it to `names` in {DESCRIPTION}"
                )
            index = VOID if one.get("iscrowd") else classes[name]
            regions[one["image_id"]].append([one.get("id"), index, one.get("segmentation")])
        images = instances["images"]
        sizes = [(image.get("height"), image.get("width")) for image in images]
        usable = [
            size if all(type(side) is int and 0 < side < 2**31 for side in size) else None for size in sizes
        ]
        self.entries = PackedEntries(
            ids, ((size, regions[image["id"]]) for size, image in zip(usable, images, strict=True))
        )

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The instances of an image, the smaller on top; crowds are void."""
        assert files.mask is not None
        stored, regions = self.entries[files.id]
        height, width = drawn_size(files, stored or size)
        if size is not None and (height, width) != size:
            raise ValueError(
                f"{files.mask} has {files.image.name} as {width}x{height} pixels, but the image is "
                f"{size[1]}x{size[0]}"
            )
        drawn = []
        for number, index, segmentation in regions:
            try:
                runs = read_segmentation(segmentation, (height, width))
            except ValueError as error:
                raise ValueError(
                    f"{files.mask}: annotation {number} of {files.image.name}: {error}"
                ) from None
            drawn += [(index, runs)] if runs is not None else []
        return draw(drawn, (height, width))


def read_segmentation(stored: Any, size: tuple[int, int]) -> Runs | None:
    """The runs of an annotation's `segmentation` in an image of H, W; None where its polygons have no area.

    Raises:
        ValueError: it is missing or damaged.
    """
    if not stored:
        raise ValueError(
            "there is no segmentation (a box alone cannot be learned from): remove it, or draw it"
        )
    return stored_runs(stored, size) if isinstance(stored, dict) else polygon_runs(stored, size)


def read_instances(path: Path) -> dict[str, Any]:
    """What a JSON file of instances holds.

    Raises:
        ValueError: it is none.
    """
    content = read_json(path, JSON_BYTES)
    for key, fields in FIELDS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path} has no list `{key}`: it is not COCO's JSON of instances")
        for number, entry in enumerate(entries):
            found = entry if isinstance(entry, dict) else {}
            wrong = [field for field in fields if not isinstance(found.get(field), int | str)]
            if wrong:
                raise ValueError(f"{path}: entry {number} of `{key}` has no {' and no '.join(wrong)}")
    return content
