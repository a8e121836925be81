"""Classes are merged and left out, whatever the layout: each index by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.cache.images import sample_key
from segdistill.data.check import Survey, check
from segdistill.data.datasets import open_dataset
from segdistill.data.formats.classes import ClassMap
from segdistill.data.formats.table import open_layout
from segdistill.data.labels import VOC, VOID, LabelSet
from segdistill.data.masks import IdMasks, IndexMasks

pytestmark = pytest.mark.unit
FILES = LabelSet(
    names=("background", "road", "car", "sky", "bus"),
    palette=((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)),
    void=11,
)
MERGE = "classes: {vehicle: [bus, car], background: [sky], ignore: [road]}\n"


def mapped(description: dict) -> tuple[tuple[str, ...], list[int]]:
    found = ClassMap(description, FILES, "x.yaml")
    assert (found.table[5:] == VOID).all()
    return found.labels.names, found.table[:5].tolist()


@pytest.mark.parametrize(
    ("description", "names", "table"),
    [
        ({}, FILES.names, [0, 1, 2, 3, 4]),
        ({"classes": {"vehicle": ["bus", "car"]}}, ("background", "road", "vehicle", "sky"), [0, 1, 2, 3, 2]),
        ({"classes": {"background": ["sky"]}}, ("background", "road", "car", "bus"), [0, 1, 2, 0, 3]),
        ({"classes": {"__background__": ["sky"]}}, ("background", "road", "car", "bus"), [0, 1, 2, 0, 3]),
        ({"classes": {"street": ["road"]}}, ("background", "street", "car", "sky", "bus"), [0, 1, 2, 3, 4]),
        ({"classes": {"ignore": ["background", "sky"]}}, ("road", "car", "bus"), [255, 0, 1, 255, 2]),
        (
            {"classes": {"v": ["bus", "car"], "ignore": ["road"]}},
            ("background", "v", "sky"),
            [0, 255, 1, 2, 1],
        ),
        # A class may be a member of the new one that has its name.
        ({"classes": {"road": ["road", "sky"]}}, ("background", "road", "car", "bus"), [0, 1, 2, 1, 3]),
    ],
)
def test_each_index_by_hand(description: dict, names: tuple[str, ...], table: list[int]) -> None:
    assert mapped(description) == (names, table)


def test_a_merged_class_has_the_colour_of_its_first_member() -> None:
    found = ClassMap({"classes": {"vehicle": ["bus", "car"], "ignore": ["background"]}}, FILES, "x")
    assert found.labels.palette == ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    assert found.labels.void == 11


def test_nothing_to_map_changes_nothing() -> None:
    reader = IndexMasks(FILES)
    assert ClassMap({"classes": {"car": ["car"], "ignore": None}}, FILES, "x").reader(reader) is reader


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ({"classes": {"v": ["cra"]}}, "no class is called cra; classes are background, road, car, sky, bus"),
        ({"classes": {"ignore": ["x"]}}, "no class is called x"),
        ({"classes": {"v": ["car"], "w": ["car"]}}, "the class 'car' is named twice in `classes`"),
        ({"classes": {"v": ["car", "car"]}}, "named twice"),
        ({"classes": {"v": ["car"], "ignore": ["car"]}}, "named twice"),
        (
            {"classes": {"car": ["bus"], "ignore": ["car"]}},
            "the new class 'car' has the name of a class that goes",
        ),
        (
            {"classes": {"car": ["bus"], "bus": ["car"]}},
            "the new class 'bus' has the name of a class that goes",
        ),
        ({"classes": ["car"]}, "`classes` must hold lists of classes by new name"),
        ({"classes": {"v": "car"}}, r"classes: v must be a list of class names, such as \[car, truck\]"),
        ({"classes": {"ignore": "car"}}, "classes: ignore must be a list of class names"),
        (
            {"classes": {"ignore": ["background", "road", "car", "sky"]}},
            "a label set has 2 to 254 classes, not 1",
        ),
    ],
)
def test_an_impossible_map_says_why(description: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"x\.yaml: .*{reason}"):
        ClassMap(description, FILES, "x.yaml")


# In each layout: the classes are background, road, car, sky, bus


def write(path: Path, pixels: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(path)


def test_folders(tmp_path: Path) -> None:
    write(tmp_path / "i" / "p.png", [[[0, 0, 0]] * 6])
    write(tmp_path / "m" / "p.png", [[0, 1, 2, 3, 4, 11]])
    text = "names: [background, road, car, sky, bus]\nvoid: 11\nimages: i\nmasks: m\n"
    (tmp_path / "dataset.yaml").write_text(text)
    before = sample_key(open_dataset(tmp_path, "all"), 0)
    (tmp_path / "dataset.yaml").write_text(text + MERGE)
    samples = open_dataset(tmp_path, "all")
    assert open_layout(tmp_path).labels.names == samples.labels.names == ("background", "vehicle")
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == [[0, 255, 1, 0, 1, 255]]
    assert sample_key(samples, 0) != before
    counted = Survey(samples.labels, 1)
    assert list(check(samples, counted)) == [None]
    assert counted.pixels[[0, 1, 255]].tolist() == [2, 2, 2]
    write(tmp_path / "m" / "p.png", [[0, 1, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match="holds the label 5, but labels are 0 to 4 and void is 11"):
        samples[0]


def test_masks_in_colours(tmp_path: Path) -> None:
    write(tmp_path / "i" / "p.png", [[[0, 0, 0]] * 6])
    write(tmp_path / "m" / "p.png", [[[number] * 3 for number in range(6)]])
    (tmp_path / "dataset.yaml").write_text(
        f"names: [background, road, car, sky, bus]\npalette: {[[n] * 3 for n in range(5)]}\nvoid: [5, 5, 5]\n"
        f"mask_format: colours\nimages: i\nmasks: m\n{MERGE}"
    )
    samples = open_dataset(tmp_path, "all")
    assert samples[0].mask.tolist() == [[0, 255, 1, 0, 1, 255]]
    assert samples.labels.palette == ((0, 0, 0), (2, 2, 2))


def test_a_devkit_and_an_export_of_cvat(tmp_path: Path) -> None:
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("p\n")
    write(tmp_path / "JPEGImages" / "p.jpg", [[[0, 0, 0]] * 6])
    write(tmp_path / "SegmentationClass" / "p.png", [[0, 6, 7, 15, 20, 255]])
    description = tmp_path / "dataset.yaml"
    description.write_text("classes: {vehicle: [car, bus], ignore: [person]}\n")
    samples = open_dataset(tmp_path, "train")
    assert len(samples.labels) == len(VOC) - 2
    assert samples[0].mask.tolist() == [[0, 6, 6, 255, 18, 255]]
    write(tmp_path / "SegmentationClass" / "p.png", [[[number] * 3 for number in (0, 1, 2, 3, 4, 0)]])
    names = ("background", "road", "car", "sky", "bus")
    lines = [f"{name}:{number},{number},{number}::\n" for number, name in enumerate(names)]
    (tmp_path / "labelmap.txt").write_text("".join(lines))
    description.write_text(MERGE)
    samples = open_dataset(tmp_path, "train")
    assert samples.labels.names == ("background", "vehicle")
    assert samples[0].mask.tolist() == [[0, 255, 1, 0, 1, 0]]


def test_polygons(tmp_path: Path) -> None:
    for name in ("p", "empty"):
        write(tmp_path / "images" / f"{name}.png", [[[0, 0, 0]] * 4] * 8)
    (tmp_path / "labels").mkdir()
    bands = [f"{c} 0 {c / 4} 1 {c / 4} 1 {(c + 1) / 4} 0 {(c + 1) / 4}\n" for c in range(4)]
    (tmp_path / "labels" / "p.txt").write_text("".join(bands))
    (tmp_path / "data.yaml").write_text(f"train: images\nnames: [road, car, sky, bus]\n{MERGE}")
    samples = open_dataset(tmp_path, "train")
    assert samples.labels.names == ("background", "vehicle")
    assert samples[1].mask[:, 1].tolist() == [255, 255, 1, 1, 0, 0, 1, 1]
    assert samples[0].mask.sum() == 0  # one without polygons is read all the same


def test_cocos_json(tmp_path: Path) -> None:
    write(tmp_path / "p.png", [[[0, 0, 0]] * 4] * 8)
    bands = [
        {
            "id": c,
            "image_id": 1,
            "category_id": c,
            "segmentation": {"size": [8, 4], "counts": [8 * c, 8, 24 - 8 * c]},
        }
        for c in range(4)
    ]
    names = [{"id": number, "name": name} for number, name in enumerate(("road", "car", "sky", "bus"))]
    content = {"images": [{"id": 1, "file_name": "p.png"}], "annotations": bands, "categories": names}
    (tmp_path / "a.json").write_text(str(content).replace("'", '"'))
    (tmp_path / "dataset.yaml").write_text(f"annotations: a.json\nimages: .\n{MERGE}")
    samples = open_dataset(tmp_path, "all")
    assert samples.labels.names == ("background", "vehicle")
    assert samples[0].mask[0].tolist() == [255, 1, 0, 1]


@pytest.mark.parametrize(
    "every_layout",
    "ade coco cvat folders huggingface labelme labelstudio supervisely voc yolo".split(),
    indirect=True,
)
def test_more_classes_than_8_bits_hold_are_refused_with_the_reason(every_layout: Callable[..., Path]) -> None:
    names = ["background", *(f"class{number}" for number in range(299))]
    root = every_layout(["a"], names=names, palette=None)
    with pytest.raises(
        ValueError, match="has 2 to 254 classes, not 300: masks have 8 bits, of which 255 is void"
    ):
        open_layout(root)


def test_what_is_void_is_said_of_the_files_and_of_what_is_ignored() -> None:
    files = LabelSet(names=("ground", "road", "car"))
    merged = ClassMap({"classes": {"ground": ["car"]}}, files, "x").reader(IndexMasks(files))
    assert merged.void == IndexMasks(files).void, "nothing is ignored"
    ignoring = ClassMap({"classes": {"ignore": ["car"]}}, files, "x").reader(IndexMasks(files))
    assert ignoring.void == f"the classes car become void by `ignore`; {IndexMasks(files).void}"
    names = tuple(f"c{number}" for number in range(14))
    many = ClassMap({"classes": {"ignore": list(names[2:])}}, LabelSet(names=names), "x")
    assert "c10, c11 and 2 more become void" in many.reader(IdMasks({0: 0})).void
