"""Small data sets of every layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segdistill.data.formats.table import LAYOUTS

Make = Callable[..., Path]
NAMES = ["background", "road", "roof"]
PALETTE = [[0, 0, 0], [128, 64, 128], [200, 30, 30]]
WIDTH, HEIGHT = 12, 8


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def index_mask(seed: int) -> np.ndarray:
    """Ground, a block of road and one of roof."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:5, 1 : 3 + seed % 4] = 1
    mask[4:7, 8:11] = 2
    return mask


def write_mask(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_description(root: Path, content: dict[str, Any], name: str = "dataset.yaml") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(yaml.safe_dump(content))


def folders(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    for seed, name in enumerate(ids):
        write_image(root / split / "images" / f"{name}.png", seed)
        write_mask(root / split / "masks" / f"{name}.png", index_mask(seed))
    paths = {"images": "{split}/images", "masks": "{split}/masks"}
    write_description(root, {"names": NAMES, "palette": PALETTE, **paths, **more})


def voc(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    for seed, name in enumerate(ids):
        write_image(root / "JPEGImages" / f"{name}.jpg", seed)
        write_mask(root / "SegmentationClass" / f"{name}.png", index_mask(seed))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))
    write_description(root, {"names": NAMES, "palette": PALETTE, **more})


def cvat(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    voc(root, ids, split, more)
    for seed, name in enumerate(ids):
        colours = np.array(PALETTE, np.uint8)[index_mask(seed)]
        write_mask(root / "SegmentationClass" / f"{name}.png", colours)
    names, _ = more.pop("names", NAMES), more.pop("palette", None)
    palette = PALETTE if names == NAMES else [[n // 256, n % 256, 1] for n in range(len(names))]
    lines = [f"{name}:{','.join(map(str, c))}::" for name, c in zip(names, palette, strict=True)]
    (root / "labelmap.txt").write_text("\n".join(lines))
    (root / "dataset.yaml").unlink()
    if more:
        write_description(root, more)


def coco(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    shapes = []
    for number, name in enumerate(ids):
        write_image(root / split / f"{name}.png", number)
        for category, (x, y, w, h) in {1: (1, 2, 2, 3), 2: (8, 4, 3, 3)}.items():
            points = [x, y, x + w, y, x + w, y + h, x, y + h]
            shapes.append(
                {"id": len(shapes), "image_id": number, "category_id": category, "segmentation": [points]}
            )
    images = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(ids)]
    categories = [{"id": 1, "name": "road"}, {"id": 2, "name": "roof"}]
    file = root / "annotations" / f"{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": shapes, "categories": categories}))
    write_description(root, {"annotations": "annotations/{split}.json", "images": "{split}", **more})


def yolo(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    for seed, name in enumerate(ids):
        write_image(root / split / "images" / f"{name}.png", seed)
        labels = root / split / "labels" / f"{name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("0 0.1 0.2 0.5 0.2 0.5 0.6\n1 0.7 0.5 0.9 0.5 0.9 0.9 0.7 0.9\n")
    description = root / "data.yaml"
    before = yaml.safe_load(description.read_text()) if description.is_file() else {"names": NAMES[1:]}
    write_description(root, {**before, split: f"{split}/images", **more}, "data.yaml")


def ade(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    for folder in ("images", "annotations"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(ids):
        write_image(root / "images" / split / f"{name}.png", seed)
        write_mask(root / "annotations" / split / f"{name}.png", index_mask(seed) + 1)
    names = {"palette": None, "names": NAMES, **more}["names"]
    lines = [f"{number}\t0.1\t1\t1\t{name}" for number, name in enumerate(names, start=1)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]))
    write_rest(root, more)


def cityscapes(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    """Road, sidewalk and building, the first three of its classes."""
    images, masks = root / "leftImg8bit" / split / "ulm", root / "gtFine" / split / "ulm"
    for seed, name in enumerate(ids):
        write_image(images / f"{name}_leftImg8bit.png", seed)
        write_mask(masks / f"{name}_gtFine_labelIds.png", np.array([7, 8, 11], np.uint8)[index_mask(seed)])
    write_rest(root, more)


BOXES = {"road": (1, 2, 3, 5), "roof": (8, 4, 11, 7)}
"""Left, top, right and bottom of a rectangle of each class."""


def supervisely(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    size = {"height": HEIGHT, "width": WIDTH}
    objects = [
        {
            "classTitle": name,
            "geometryType": "rectangle",
            "points": {"exterior": [[left, top], [right, bottom]], "interior": []},
        }
        for name, (left, top, right, bottom) in BOXES.items()
    ]
    for seed, name in enumerate(ids):
        write_image(root / split / "img" / f"{name}.png", seed)
        write_json(root / split / "ann" / f"{name}.png.json", {"size": size, "objects": objects})
    names = more.get("names", NAMES)
    write_json(root / "meta.json", {"classes": [{"title": name, "color": "#102030"} for name in names]})
    write_rest(root, more)


def labelme(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    shapes = [
        {"label": name, "shape_type": "rectangle", "points": [[left, top], [right, bottom]]}
        for name, (left, top, right, bottom) in BOXES.items()
    ]
    for seed, name in enumerate(ids):
        write_image(root / split / f"{name}.png", seed)
        write_json(
            root / split / f"{name}.json",
            {"imagePath": f"{name}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes},
        )
    (root / "labels.txt").write_text("\n".join(more.get("names", NAMES)))
    write_rest(root, more)


def labelstudio(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    regions = [
        {
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "value": {
                "x": 100 * left / WIDTH,
                "y": 100 * top / HEIGHT,
                "width": 100 * (right - left) / WIDTH,
                "height": 100 * (bottom - top) / HEIGHT,
                "rectanglelabels": [name],
            },
        }
        for name, (left, top, right, bottom) in BOXES.items()
    ]
    for seed, name in enumerate(ids):
        write_image(root / split / f"{name}.png", seed)
    tasks = [{"data": {"image": f"{name}.png"}, "annotations": [{"result": regions}]} for name in ids]
    write_json(root / f"tasks-{split}.json", tasks)
    paths = {"tasks": "tasks-{split}.json", "images": "{split}"}
    write_description(root, {"names": NAMES, "palette": PALETTE, **paths, **more})


def huggingface(root: Path, ids: list[str], split: str, more: dict[str, Any]) -> None:
    lines = []
    for seed, name in enumerate(ids):
        write_image(root / split / f"{name}.png", seed)
        write_mask(root / split / f"{name}.mask.png", index_mask(seed))
        lines.append(json.dumps({"file_name": f"{name}.png", "mask_file_name": f"{name}.mask.png"}))
    (root / split / "metadata.jsonl").write_text("\n".join(lines))
    write_description(root, {"names": NAMES, "palette": PALETTE, **more})


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_rest(root: Path, more: dict[str, Any]) -> None:
    """The dataset.yaml of a layout that has its classes elsewhere."""
    rest = {key: value for key, value in more.items() if key not in {"names", "palette"}}
    if rest:
        write_description(root, rest)


WRITERS = {
    "ade": ade,
    "cityscapes": cityscapes,
    "coco": coco,
    "cvat": cvat,
    "folders": folders,
    "huggingface": huggingface,
    "labelme": labelme,
    "labelstudio": labelstudio,
    "supervisely": supervisely,
    "voc": voc,
    "yolo": yolo,
}
assert len(WRITERS) == len(LAYOUTS)


@pytest.fixture(params=sorted(WRITERS))
def every_layout(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a split of a data set of one layout: ids, name of the split, further keys of its description.

    Each image has the first three classes: background, road and roof, but in Cityscapes, which has its own.
    """
    if request.param == "huggingface":
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(ids: list[str], split: str = "train", **more: Any) -> Path:
        root = tmp_path / request.param
        WRITERS[request.param](root, ids, split, more)
        return root

    return make
