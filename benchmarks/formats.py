"""Pixel agreement of CamVid's masks that were written in other formats and read back.

    python benchmarks/formats.py path/to/camvid

Writes frames of the validation split in each format, reads their masks as training does, and compares them
pixel by pixel. Void pixels are compared too where the format has a place for them.
"""

import argparse
import base64
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as rasteriser
from rich.console import Console
from rich.table import Table
from skimage.measure import approximate_polygon, find_contours, label

from segdistill.data.datasets import open_dataset
from segdistill.data.labels import LabelSet
from segdistill.data.samples import FileSamples

VOID = 255
CITYSCAPES = {
    "sky": ("sky", 23), "building": ("building", 11), "pole": ("pole", 17), "road": ("road", 7),
    "pavement": ("sidewalk", 8), "tree": ("vegetation", 21), "sign-symbol": ("traffic sign", 20),
    "fence": ("fence", 13), "car": ("car", 26), "pedestrian": ("person", 24), "bicyclist": ("rider", 25),
}  # fmt: skip
"""Name and id of CamVid's classes in Cityscapes."""


@dataclass(frozen=True)
class Frames:
    """What is written: images, their masks (H x W, `VOID` included) and the classes."""

    images: list[Path]
    masks: list[np.ndarray]
    labels: LabelSet

    def copy_images(self, folder: Path, suffix: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.images:
            shutil.copy(path, folder / f"{path.stem}{suffix}{path.suffix}")

    def regions(self, index: int) -> list[tuple[int, np.ndarray]]:
        """Class index and pixels of each class in a mask."""
        found = (number for number in np.unique(self.masks[index]).tolist() if number != VOID)
        return [(number, self.masks[index] == number) for number in found]


def describe(root: Path, **content: object) -> None:
    (root / "dataset.yaml").write_text(yaml.safe_dump(content))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def in_base64(region: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(region.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def coloured(frames: Frames, index: int, void: tuple[int, int, int]) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[: len(frames.labels)] = frames.labels.palette
    table[VOID] = void
    return table[frames.masks[index]]


def write_colours(root: Path, frames: Frames) -> None:
    frames.copy_images(root / "images")
    for index, path in enumerate(frames.images):
        save(root / "masks" / f"{path.stem}.png", coloured(frames, index, (1, 2, 3)))
    palette = [list(colour) for colour in frames.labels.palette]
    describe(
        root, names=list(frames.labels.names), palette=palette, void=[1, 2, 3], mask_format="colours",
        images="images", masks="masks",
    )  # fmt: skip


def write_ids(root: Path, frames: Frames) -> None:
    frames.copy_images(root / "images")
    for path, mask in zip(frames.images, frames.masks, strict=True):
        save(root / "masks" / f"{path.stem}.png", mask.astype(np.uint16) * 100)
    ids = {100 * index: name for index, name in enumerate(frames.labels.names)}
    describe(
        root, names=list(frames.labels.names), ids=ids, void=100 * VOID, mask_format="ids",
        images="images", masks="masks",
    )  # fmt: skip


def write_cvat(root: Path, frames: Frames) -> None:
    frames.copy_images(root / "JPEGImages")
    for index, path in enumerate(frames.images):
        save(root / "SegmentationClass" / f"{path.stem}.png", coloured(frames, index, (224, 224, 192)))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "all.txt").write_text("".join(f"{path.stem}\n" for path in frames.images))
    colours = zip(frames.labels.names, frames.labels.palette, strict=True)
    lines = [f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in colours]
    (root / "labelmap.txt").write_text("".join(lines))


def write_cityscapes(root: Path, frames: Frames) -> None:
    frames.copy_images(root / "leftImg8bit" / "all" / "cambridge", "_leftImg8bit")
    table = np.zeros(256, np.uint8)
    table[: len(frames.labels)] = [CITYSCAPES[name][1] for name in frames.labels.names]
    for path, mask in zip(frames.images, frames.masks, strict=True):
        save(root / "gtFine" / "all" / "cambridge" / f"{path.stem}_gtFine_labelIds.png", table[mask])


def write_coco(root: Path, frames: Frames) -> None:
    frames.copy_images(root / "images")
    images, annotations = [], []
    for index, path in enumerate(frames.images):
        height, width = frames.masks[index].shape
        images.append({"id": index, "file_name": path.name, "height": height, "width": width})
        drawn = [(number, region, 0) for number, region in frames.regions(index)]
        for number, region, crowd in [*drawn, (0, frames.masks[index] == VOID, 1)]:
            runs = rasteriser.encode(np.asfortranarray(region.astype(np.uint8)))
            segmentation = {"size": [height, width], "counts": runs["counts"].decode()}
            annotations.append(
                {"id": len(annotations), "image_id": index, "category_id": number, "iscrowd": crowd}
                | {"segmentation": segmentation}
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(frames.labels.names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "all.json").write_text(json.dumps(content))
    describe(root, annotations="all.json", images="images")


def polygons(region: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """The outlines (points x, y) of a region's parts, up to `tolerance` pixels off; holes have none."""
    parts = label(region, connectivity=1)
    found = []
    for number in range(1, parts.max() + 1):
        outlines = find_contours(np.pad(parts == number, 1).astype(float), 0.5)
        outline = approximate_polygon(max(outlines, key=len), tolerance)
        found.append(outline[:, ::-1] - 0.5)  # less the padding, from centres to corners
    return found


def write_yolo(root: Path, frames: Frames, tolerance: float = 0.0) -> None:
    frames.copy_images(root / "images")
    (root / "labels").mkdir()
    for index, path in enumerate(frames.images):
        sides = np.array(frames.masks[index].shape[::-1])
        lines = []
        for number, region in frames.regions(index):
            for points in polygons(region, tolerance):
                if len(points) < 3:
                    continue  # nothing is left of it
                values = " ".join(f"{value:.6f}" for value in (points / sides).ravel())
                lines.append(f"{number} {values}\n")
        (root / "labels" / f"{path.stem}.txt").write_text("".join(lines))
    names = list(frames.labels.names)
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images", "val": "images", "names": names}))


def write_supervisely(root: Path, frames: Frames) -> None:
    frames.copy_images(root / "all" / "img")
    (root / "all" / "ann").mkdir()
    for index, path in enumerate(frames.images):
        height, width = frames.masks[index].shape
        objects = [
            {"classTitle": frames.labels.names[number], "geometryType": "bitmap"}
            | {"bitmap": {"data": in_base64(region), "origin": [0, 0]}}
            for number, region in frames.regions(index)
        ]
        content = {"size": {"height": height, "width": width}, "objects": objects}
        (root / "all" / "ann" / f"{path.name}.json").write_text(json.dumps(content))
    classes = [{"title": name, "shape": "bitmap", "color": "#010203"} for name in frames.labels.names]
    (root / "meta.json").write_text(json.dumps({"classes": classes}))


def write_labelme(root: Path, frames: Frames) -> None:
    frames.copy_images(root)
    for index, path in enumerate(frames.images):
        height, width = frames.masks[index].shape
        void = [("__ignore__", frames.masks[index] == VOID)]
        drawn = [(frames.labels.names[number], region) for number, region in frames.regions(index)]
        shapes = [
            {"label": name, "shape_type": "mask", "points": [[0, 0], [width - 1, height - 1]]}
            | {"mask": in_base64(region)}
            for name, region in drawn + void
        ]
        content = {"shapes": shapes, "imagePath": path.name, "imageHeight": height, "imageWidth": width}
        (root / f"{path.stem}.json").write_text(json.dumps(content))
    (root / "labels.txt").write_text("\n".join(frames.labels.names))


def write_huggingface(root: Path, frames: Frames) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    cells = {
        "image": [str(path) for path in frames.images],
        "mask": [Image.fromarray(mask) for mask in frames.masks],
    }
    datasets.Dataset.from_dict(cells, features=features).save_to_disk(str(root))
    describe(root, names=list(frames.labels.names))


FORMATS: dict[str, tuple[Callable[[Path, Frames], None], str, bool]] = {
    "masks in colours": (write_colours, "all", True),
    "masks of 16-bit ids": (write_ids, "all", True),
    "CVAT, Segmentation mask 1.1": (write_cvat, "all", True),
    "Cityscapes, labelIds": (write_cityscapes, "all", True),
    "COCO's JSON, run lengths": (write_coco, "all", True),
    "YOLO's polygons": (write_yolo, "train", False),
    "YOLO's polygons, 1 pixel off": (partial(write_yolo, tolerance=1.0), "train", False),
    "YOLO's polygons, 2 pixels off": (partial(write_yolo, tolerance=2.0), "train", False),
    "Supervisely, bitmaps": (write_supervisely, "all", False),
    "labelme, bitmaps": (write_labelme, "all", True),
    "Hugging Face, saved to disk": (write_huggingface, "all", True),
}
"""How each is written, the split that is read back, and whether void pixels have a place in it."""


def agreement(samples: FileSamples, frames: Frames, *, void: bool) -> tuple[int, int]:
    """How many pixels have the class that was written, of how many."""
    renamed = {name: new for name, (new, _) in CITYSCAPES.items()}
    names = samples.labels.names
    table = np.full(256, VOID)
    table[: len(frames.labels)] = [
        names.index(name if name in names else renamed[name]) for name in frames.labels.names
    ]
    assert len(samples) == len(frames.masks)
    same = pixels = 0
    for index, written in enumerate(frames.masks):
        counted = np.full(written.shape, True) if void else written != VOID
        same += (samples.mask(index).numpy() == table[written])[counted].sum()
        pixels += counted.sum()
    return int(same), int(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("camvid", type=Path, help="folder with val/images and val/masks")
    parser.add_argument("--frames", type=int, default=20, help="how many, evenly spaced")
    options = parser.parse_args()
    layout = Path(__file__).parents[1] / "configs" / "layouts" / "camvid.yaml"
    samples = open_dataset(options.camvid, "val", layout=layout)
    chosen = np.linspace(0, len(samples) - 1, options.frames).round().astype(int).tolist()
    files = [samples.files(index) for index in chosen]
    frames = Frames(
        [Path(str(one.image)) for one in files],
        [samples.mask(index).numpy() for index in chosen],
        samples.labels,
    )
    table = Table(
        "format",
        "pixel agreement",
        "wrong pixels",
        "void pixels",
        title=f"{len(files)} frames of CamVid",
    )
    for name, (write, split, void) in FORMATS.items():
        with TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            root.mkdir()
            write(root, frames)
            read = open_dataset(root, split)
            same, pixels = agreement(read, frames, void=void)
            left = "compared" if void else "no place for them"
            table.add_row(name, f"{same / pixels:.6f}", f"{pixels - same:,}", left)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
