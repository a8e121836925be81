"""CVAT's export "Segmentation mask 1.1" is read as it is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.check import check
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.formats.cvat import CvatLayout, read_label_map
from segdistill.data.formats.table import open_layout
from segdistill.data.formats.voc import VocLayout

pytestmark = pytest.mark.unit
LABEL_MAP = "# label:color_rgb:parts:actions\nroad:128,64,128::\nbackground:0,0,0::\nroof:200,30,30:a,b:\n\n"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export of three images: a plain name, a folder, a space."""
    (tmp_path / "labelmap.txt").write_text(LABEL_MAP)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text('one\nsub/two.a\n"my image"\n')
    row = np.array([[[0, 0, 0], [128, 64, 128], [200, 30, 30], [224, 224, 192]]], np.uint8)
    for name, suffix in (("one", "jpg"), ("sub/two.a", "png"), ("my image", "JPEG")):
        for path in (f"JPEGImages/{name}.{suffix}", f"SegmentationClass/{name}.png"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row).save(tmp_path / path)
    return tmp_path


def test_an_export_needs_no_description(export: Path) -> None:
    samples = open_dataset(export, "default")
    assert splits(export) == ["default"]
    assert samples.labels.names == ("background", "road", "roof")
    assert samples.labels.palette == ((0, 0, 0), (128, 64, 128), (200, 30, 30))
    assert list(samples.ids) == ["one", "sub/two.a", "my image"]
    assert [samples[index].mask.tolist() for index in range(3)] == [[[0, 1, 2, 255]]] * 3
    assert list(check(samples)) == [None] * 3


def test_a_colour_that_the_label_map_lacks_is_named(export: Path) -> None:
    Image.new("RGB", (4, 1), (1, 2, 3)).save(export / "SegmentationClass" / "one.png")
    problem, *others = check(open_dataset(export, "default"))
    assert problem is not None
    assert "one.png has the colour [1, 2, 3] at pixel (x, y) = (0, 0)" in problem.reason
    assert others == [None, None]


def test_a_class_may_have_the_colour_of_vocs_void(export: Path) -> None:
    (export / "labelmap.txt").write_text(LABEL_MAP + "border:224,224,192::\n")
    assert open_dataset(export, "default")[0].mask.tolist() == [[0, 1, 2, 3]]


def test_an_export_without_images_names_what_is_missing(export: Path) -> None:
    (export / "JPEGImages" / "one.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"the first is .*JPEGImages/one\.jpg"):
        open_dataset(export, "default")


def test_a_description_comes_before_the_label_map(export: Path, tmp_path: Path) -> None:
    assert isinstance(open_layout(export), CvatLayout)
    (tmp_path / "mine.yaml").write_text("names: [a, b]\n")
    assert open_layout(export, tmp_path / "mine.yaml").labels.names == ("a", "b")
    (tmp_path / "mine.yaml").rename(export / "dataset.yaml")
    found = open_layout(export)
    assert type(found) is VocLayout
    assert found.labels.names == ("a", "b")


@pytest.mark.parametrize("name", ["../one", "/etc/one", "sub/../../one"])
def test_a_list_that_leads_out_of_the_folder_is_refused(export: Path, name: str) -> None:
    (export / "ImageSets" / "Segmentation" / "default.txt").write_text(f"{name}\n")
    with pytest.raises(ValueError, match="is outside the data set"):
        open_dataset(export, "default")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a:1,2::\nb:1,2,3::\n", r"line 1 of .*labelmap\.txt is 'a:1,2::', but must be `name:R,G,B::`"),
        ("# x\nb\n", "line 2 of .* is 'b'"),
        ("a:1,2,x::\n", "must be `name:R,G,B::`"),
        ("a:1,2,3::\n", r"labelmap\.txt: a label set has 2 to 254 classes, not 1"),
        ("a:1,2,3::\na:4,5,6::\n", "class names repeat"),
        ("a:1,2,300::\nb:1,2,3::\n", "beyond 0-255"),
    ],
)
def test_a_wrong_label_map_says_where(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_label_map(tmp_path / "labelmap.txt")


def test_two_classes_of_one_colour_are_refused(export: Path) -> None:
    (export / "labelmap.txt").write_text("a:1,2,3::\nb:1,2,3::\n")
    with pytest.raises(ValueError, match=r"labelmap\.txt: masks in colours need a `palette` of different"):
        open_layout(export)
