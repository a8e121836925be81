"""Label Studio's exports: brushes as its SDK decodes them, polygons as its COCO conversion has them."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.data.check import check
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.formats.label_studio import LabelStudioLayout, image_name
from segdistill.data.formats.label_studio_masks import decode_brush, rectangle_points
from segdistill.data.formats.table import open_layout

pytestmark = pytest.mark.unit
WRITTEN = Path(__file__).parents[2] / "fixtures" / "formats" / "label-studio"
EXPORT = "project-1-at-2026-01-02-00-00-1a2b3c4d.json"
H, W = 20, 40
NAMES = "names: [background, police/car, road, roof]\n"
Edit = Callable[[list[dict[str, Any]]], object]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An export with its images."""
    shutil.copytree(WRITTEN / "images", tmp_path / "images")
    shutil.copy(WRITTEN / EXPORT, tmp_path)
    return tmp_path


def edited(root: Path, edit: Edit) -> None:
    """Changes the tasks of an export."""
    tasks = json.loads((root / EXPORT).read_text())
    edit(tasks)
    (root / EXPORT).write_text(json.dumps(tasks))


def layer(label: str) -> np.ndarray:
    """What Label Studio's own PNG export shows of a brush."""
    return np.asarray(Image.open(WRITTEN / "png" / f"task-1-annotation-11-by-1-tag-{label}-0.png")) > 0


def polygon(root: Path) -> np.ndarray:
    """The polygon of yard.png, from Label Studio's own conversion to COCO's JSON."""
    coco = json.loads((WRITTEN / "coco" / "result.json").read_text())
    coco["images"][0]["file_name"] = "yard.png"
    folder = root / "coco"
    shutil.copytree(WRITTEN / "images", folder / "images")
    (folder / "all.json").write_text(json.dumps(coco))
    (folder / "dataset.yaml").write_text("annotations: all.json\nimages: images\n")
    return open_dataset(folder, "all").mask(0).numpy() > 0


def test_masks_are_those_of_label_studio(root: Path) -> None:
    samples = open_dataset(root, "all")
    assert isinstance(open_layout(root), LabelStudioLayout)
    assert splits(root) == ["all"]
    assert samples.labels.names == ("background", "police/car", "road", "roof")
    assert list(samples.ids) == ["street", "yard", "empty"]
    expected = np.zeros((H, W), np.uint8)
    expected[layer("road")] = 2
    expected[layer("police-car")] = 1
    roof = polygon(root)
    expected[roof] = 3
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == expected.tolist()
    assert samples.mask(1).tolist() == (3 * roof).tolist()
    assert 90 < roof.sum() < 110
    assert samples.mask(2).tolist() == np.zeros((H, W), int).tolist()
    assert pickle.loads(pickle.dumps(samples)).mask(0).tolist() == expected.tolist()
    assert list(check(samples)) == [None] * 3


def test_png_files_are_read_instead_of_brushes(root: Path) -> None:
    shutil.copytree(WRITTEN / "png", root / "png")
    (root / "dataset.yaml").write_text(NAMES + f"tasks: {EXPORT}\nmasks: png\n")
    samples = open_dataset(root, "all")
    assert list(samples.ids) == ["street"]
    expected = np.where(layer("road"), 2, np.where(layer("police-car"), 1, 0))
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == expected.tolist()
    # JSON-MIN says which image a task has, too.
    tasks = json.loads((root / EXPORT).read_text())
    (root / EXPORT).write_text(json.dumps([{"id": task["id"], **task["data"]} for task in tasks]))
    assert open_dataset(root, "all").mask(0).tolist() == expected.tolist()


def test_the_newest_annotation_of_png_files_is_read(root: Path) -> None:
    shutil.copytree(WRITTEN / "png", root / "png")
    shutil.copy(
        root / "png" / "task-1-annotation-11-by-1-tag-road-0.png",
        root / "png" / "task-1-annotation-12-by-an-na@x.org-tag-roof-0.png",
    )
    (root / "dataset.yaml").write_text(NAMES + f"tasks: {EXPORT}\nmasks: png\n")
    assert open_dataset(root, "all").mask(0).tolist() == (3 * layer("road")).tolist()


@pytest.mark.parametrize(
    ("name", "description", "reason"),
    [
        ("a.png", NAMES, r"a\.png is not called task-N-annotation-N-by-"),
        (
            "task-1-annotation-11-by-1-tag-tree-0.png",
            NAMES,
            "tree-0.png is of no class; the classes are back",
        ),
        ("", "", "needs `names`, to tell the classes"),
    ],
)
def test_png_files_of_something_else_are_named(root: Path, name: str, description: str, reason: str) -> None:
    shutil.copytree(WRITTEN / "png", root / "png")
    (root / "dataset.yaml").write_text(description + f"tasks: {EXPORT}\nmasks: png\n")
    if name:
        Image.new("L", (W, H)).save(root / "png" / name)
    with pytest.raises(ValueError, match=reason):
        open_dataset(root, "all")


def test_splits_are_files(root: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(root / "images", root / split)
        shutil.copy(root / EXPORT, root / f"tasks-{split}.json")
    (root / "dataset.yaml").write_text("tasks: 'tasks-{split}.json'\nimages: '{split}'\n")
    assert splits(root) == ["train", "val"]
    assert not open_layout(root).one_split
    assert Path(open_dataset(root, "val").images[0]) == root / "val" / "street.png"
    with pytest.raises(FileNotFoundError, match=r"test\.json does not exist\); splits here: train, val"):
        open_dataset(root, "test")


def test_ground_truth_comes_first_then_the_newest_annotation(root: Path) -> None:
    def add(tasks: list[dict[str, Any]]) -> None:
        first = tasks[1]["annotations"][0]
        older = first | {"created_at": "2025-01-01T00:00:00Z", "result": []}
        skipped = first | {"created_at": "2027-01-01T00:00:00Z", "result": [], "was_cancelled": True}
        tasks[1]["annotations"] = [older, first, skipped]
        tasks[2]["annotations"] = []

    edited(root, add)
    samples = open_dataset(root, "all")
    assert list(samples.ids) == ["street", "yard"], "a task without an annotation has no mask"
    assert samples.mask(1).max() == 3
    edited(root, lambda tasks: tasks[1]["annotations"][0].update(ground_truth=True))
    assert open_dataset(root, "all").mask(1).max() == 0


def test_images_are_found_by_the_names_of_tasks(root: Path) -> None:
    for folder in ("a", "b"):
        (root / "images" / folder).mkdir()
        shutil.copy(root / "images" / "street.png", root / "images" / folder / "yard.png")
    assert open_dataset(root, "all").ids[1] == "yard", "its own path ends as that of the task"
    (root / "images" / "yard.png").unlink()
    with pytest.raises(ValueError, match=r"several images in .*images could be '/data/upload/1/yard\.png"):
        open_dataset(root, "all")
    edited(root, lambda tasks: tasks[1]["data"].update(image="/data/local-files/?d=set/b/yard.png"))
    assert open_dataset(root, "all").ids[1] == "b/yard"
    edited(root, lambda tasks: tasks[1]["data"].update(image="s3://bucket/gone.png"))
    with pytest.raises(FileNotFoundError, match=r"1 files .* the first is .*images/gone\.png"):
        open_dataset(root, "all")
    edited(root, lambda tasks: tasks[1].update(data={"text": "hello"}))
    with pytest.raises(ValueError, match=r"1a2b3c4d\.json: task 2 names no image"):
        open_dataset(root, "all")
    edited(root, lambda tasks: tasks[1]["data"].update(image="street.png"))
    with pytest.raises(ValueError, match="lists the image 'street' 2 times"):
        open_dataset(root, "all")
    shutil.rmtree(root / "images")
    with pytest.raises(
        FileNotFoundError, match="images is not a folder: put the images there, or name their"
    ):
        open_dataset(root, "all")


def test_addresses_of_images() -> None:
    assert image_name({"data": {"note": "x", "pic": "https://x.org/a%20b.JPG?sig=1"}}) == Path("/a b.JPG")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"original_width": 41},
            "region r2 of yard.png: it is for an image of 41x20 pixels, but this one is",
        ),
        ({"image_rotation": 90}, "the image was turned by 90 degrees in Label Studio"),
        ({"value": {"points": [[1, 1], [2, 2]], "polygonlabels": ["roof"]}}, "a polygon has 2 points"),
        ({"value": {"points": [[1, 1], [2]], "polygonlabels": ["roof"]}}, r"not a list of \[x, y\]"),
        ({"value": {"points": [[1, 1], [2, "x"], [3, 3]], "polygonlabels": ["roof"]}}, "'x', which is no n"),
        (
            {"value": {"points": [[1, 1], [2, 900], [3, 3]], "polygonlabels": ["roof"]}},
            "far outside the image",
        ),
        ({"value": {"points": [[1, 1], [2, 2], [3, 1]]}}, "region r2 of yard.png has no class, or several"),
        ({"value": {"points": [], "polygonlabels": ["roof", "road"]}}, "has no class, or several"),
        ({"value": {"radiusX": 1, "ellipselabels": ["roof"]}}, "it is an ellipse: draw a polygon"),
        ({"value": {"width": "1", "rectanglelabels": ["roof"]}}, "a rectangle needs the numbers"),
        ({"value": {"rle": [1, 2], "brushlabels": ["roof"]}}, "`rle` is no list of bytes"),
        ({"value": {"rle": [256] * 9, "brushlabels": ["roof"]}}, "`rle` is no list of bytes"),
        ({"value": {"rle": [0] * 9, "brushlabels": ["roof"]}}, "has 0 values, not 3,200 as 40x20 pixels"),
        ({"value": {"rle": [0, 0, 12, 128] + [0] * 9, "brushlabels": ["roof"]}}, "bytes end too early"),
    ],
)
def test_a_damaged_region_is_named(root: Path, fields: dict[str, Any], reason: str) -> None:
    edited(root, lambda tasks: tasks[1]["annotations"][0]["result"][0].update(fields))
    with pytest.raises(ValueError, match=rf"{EXPORT}: .*{reason}"):
        open_dataset(root, "all").mask(1)


def test_a_class_that_is_not_listed_is_named(root: Path) -> None:
    (root / "dataset.yaml").write_text("names: [background, road, police/car]\n")
    with pytest.raises(
        ValueError, match="has the class 'roof', but the classes are background, road, police"
    ):
        open_dataset(root, "all").mask(1)


def test_what_has_no_shape_is_left_out(root: Path) -> None:
    choice = {"type": "choices", "value": {"choices": ["sunny"]}}
    edited(root, lambda tasks: tasks[2]["annotations"][0]["result"].append(choice))
    assert open_dataset(root, "all").mask(2).max() == 0


@pytest.mark.parametrize(
    "marker", [{"label": "roof", "layer": "/etc/hostname"}, {"layer": "secret.png"}, {"layer": 3}]
)
def test_a_json_file_cannot_name_a_png_file(root: Path, tmp_path: Path, marker: dict[str, Any]) -> None:
    """Only the reader says which PNG files hold brush strokes: the JSON file comes from anyone."""
    secret = tmp_path.parent / f"{tmp_path.name}-secret.png"
    Image.new("L", (W, H), 255).save(secret)
    if marker.get("layer") == "secret.png":
        marker = {"label": "roof", "layer": str(secret)}
    edited(root, lambda tasks: tasks[2]["annotations"][0]["result"].append(marker))
    assert open_dataset(root, "all").mask(2).max() == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "is no list of tasks: export from Label Studio as JSON"),
        ([{"id": 1, "image": "a.png", "tag": []}], "as JSON, not JSON-MIN"),
        ([3], "is no list of tasks"),
    ],
)
def test_an_export_of_another_form_is_named(root: Path, content: object, reason: str) -> None:
    (root / EXPORT).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=reason):
        open_layout(root)


def test_several_exports_must_be_told_apart(root: Path) -> None:
    shutil.copy(root / EXPORT, root / EXPORT.replace("project-1", "project-2"))
    with pytest.raises(ValueError, match="holds 2 exports of Label Studio: name one as `tasks`"):
        open_layout(root)


def test_a_turned_rectangle_keeps_its_sides() -> None:
    """By hand: 10 x 6 pixels, turned by 90 degrees around (20, 5), of an image of 40 x 20."""
    corners = rectangle_points({"x": 50, "y": 25, "width": 25, "height": 30, "rotation": 90}, (H, W))
    pixels = np.array(corners) / 100 * (W, H)
    assert pixels == pytest.approx(np.array([[20, 5], [20, 15], [14, 15], [14, 5]]))


def test_literal_values_of_a_brush() -> None:
    """By hand, from the form that rle-pack documents: words of 8 bits, then one block of 4 and a run of 4."""
    header = f"{8:032b}{7:05b}" + f"{2:04b}{3:04b}{7:04b}{15:04b}"
    literal = "0" + "00" + f"{3:03b}" + f"{9:08b}{0:08b}{0:08b}{200:08b}"
    run = "1" + "01" + f"{3:04b}" + f"{0:08b}"
    bits = header + literal + run
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    assert decode_brush(data, (1, 2)).tolist() == [[True, False]]


def test_polygons_need_pycocotools_and_brushes_do_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match=r"install segdistill\[formats\]"):
        open_dataset(root, "all")
    shutil.copytree(WRITTEN / "png", root / "png")
    (root / "dataset.yaml").write_text(NAMES + f"tasks: {EXPORT}\nmasks: png\n")
    assert open_dataset(root, "all").mask(0).max() == 2
