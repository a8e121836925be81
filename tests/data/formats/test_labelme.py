"""labelme's JSON files: masks as labelme itself draws them, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.config.train import DataConfig
from segdistill.data.cache.images import sample_key
from segdistill.data.check import check
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.formats import labelme
from segdistill.data.formats.labelme import LabelmeLayout, is_labelme
from segdistill.data.formats.table import open_layout, open_training_layout

pytestmark = pytest.mark.unit
WRITTEN = Path(__file__).parents[2] / "fixtures" / "formats" / "labelme"
TRIANGLE = [[0, 0], [9, 0], [9, 9]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One folder of the written image."""
    folder = tmp_path / "street"
    folder.mkdir()
    for path in WRITTEN.glob("street.*"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def spoil(root: Path) -> Callable[..., None]:
    """Replaces fields of the file, and gives its only shape others."""

    def write(shape: dict[str, Any] | None = None, **fields: Any) -> None:
        path = root / "street.json"
        content = json.loads(path.read_text()) | fields
        if shape is not None:
            content["shapes"] = [{"label": "road", "shape_type": "polygon", "points": TRIANGLE} | shape]
        path.write_text(json.dumps(content))

    return write


def test_masks_are_those_of_labelme(root: Path) -> None:
    """Polygons, a rectangle, a circle, a bitmap and a turned rectangle; the later ones lie on top."""
    expected = np.asarray(Image.open(WRITTEN / "expected" / "street.png"))
    (root / "labels.txt").write_text("__ignore__\n_background_\nroad\ncar\nroof\n")
    samples = open_dataset(root, "all")
    assert isinstance(open_layout(root), LabelmeLayout)
    assert (splits(root), list(samples.ids)) == (["all"], ["street"])
    assert samples.labels.names == ("background", "road", "car", "roof")
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == expected.tolist()
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    assert list(check(samples)) == [None]


def test_classes_are_sorted_without_a_list_and_as_described_with_one(root: Path) -> None:
    assert open_layout(root).labels.names == ("background", "car", "road", "roof")
    (root / "dataset.yaml").write_text("names: [nothing, roof, car, road]\nclasses: {ignore: [car]}\n")
    samples = open_dataset(root, "all")
    assert samples.labels.names == ("nothing", "roof", "road")
    assert {0, 1, 2, 255} == set(np.unique(samples.mask(0)))


def test_ignored_and_background_shapes(root: Path, spoil: Callable[..., None]) -> None:
    inner = {"label": "_background_", "shape_type": "rectangle", "points": [[2, 1], [3, 1]]}
    (root / "dataset.yaml").write_text("names: [background, road]\n")
    spoil(shapes=[{"label": "__ignore__", "shape_type": "polygon", "points": TRIANGLE}, inner])
    mask = open_dataset(root, "all").mask(0)
    assert (int(mask[0, 4]), int(mask[1, 3]), int(mask[20, 2])) == (255, 0, 0)


def test_folders_are_splits(root: Path) -> None:
    data = root.parent / "data"
    for split in ("train", "val"):
        shutil.copytree(root, data / split)
        shutil.copytree(root, data / split / "sub")
    assert splits(data) == ["train", "val"]
    assert list(open_dataset(data, "val").ids) == ["street", "sub/street"]
    with pytest.raises(FileNotFoundError, match=r"has no split 'test'; splits here: train, val"):
        open_dataset(data, "test")
    with pytest.raises(ValueError, match=r"is one folder of labelme's files.*move them into folders"):
        open_training_layout(DataConfig(root=str(root)))


def test_an_image_of_another_name_is_found(root: Path, spoil: Callable[..., None]) -> None:
    (root / "images").mkdir()
    (root / "street.png").rename(root / "images" / "photo.png")
    spoil(imagePath="images\\photo.png")
    assert Path(open_dataset(root, "all").images[0]) == root / "images" / "photo.png"
    spoil(imagePath="gone.png")
    with pytest.raises(FileNotFoundError, match=r"1 files .* the first is .*gone\.png"):
        open_dataset(root, "all")
    spoil(imagePath="../other/photo.png")
    with pytest.raises(ValueError, match=r"names the image '\.\./other/photo\.png', which is outside"):
        open_dataset(root, "all")
    spoil(imagePath=None)
    with pytest.raises(ValueError, match=r"street\.json has no `imagePath`, and no image lies beside it"):
        open_dataset(root, "all")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"label": "tree"}, r"shape 1 has the class 'tree', but the classes are .*\(from .*dataset\.yaml\)"),
        ({"shape_type": "line"}, r"shape 1 \(road\): a shape of type 'line' has no area; types are polygon"),
        ({"points": TRIANGLE[:2]}, "it has 2 points, but must have 3 or more"),
        ({"points": [*TRIANGLE, [0, None]]}, "the coordinate 'None', which is no number"),
        ({"points": [*TRIANGLE, [0, 500]]}, "the coordinate 500, far outside the image of 40x30"),
        ({"points": [*TRIANGLE, [0]]}, r"`points` is not a list of \[x, y\]"),
        ({"shape_type": "mask", "mask": None}, "its bitmap is not base64 text"),
        ({"shape_type": "mask", "mask": "AAAA"}, "is not an image that can be read"),
    ],
)
def test_a_damaged_shape_is_named(root: Path, spoil: Callable[..., None], shape: dict, reason: str) -> None:
    (root / "dataset.yaml").write_text("names: [background, road, car]\n")
    spoil(shape)
    with pytest.raises(ValueError, match=rf"street\.json: .*{reason}"):
        open_dataset(root, "all").mask(0)


def test_a_file_of_something_else_is_named(root: Path) -> None:
    (root / "dataset.yaml").write_text("names: [background, road, car, roof]\n")
    (root / "tree.json").write_text("{}")
    shutil.copy(root / "street.png", root / "tree.png")
    good, problem = check(open_dataset(root, "all"))
    assert good is None
    assert problem is not None
    assert problem.reason.endswith("tree.json has no list `shapes`: it is no file of annotations")


def test_an_image_of_another_size_is_a_problem(root: Path) -> None:
    Image.new("RGB", (9, 8)).save(root / "street.png")
    (problem,) = check(open_dataset(root, "all"))
    assert problem is not None
    assert "street.json is for an image of 40x30 pixels, but" in problem.reason


def test_other_classes_are_another_cache_entry(root: Path) -> None:
    keys = set()
    for names in ("[x, road, roof, car]", "[x, car, roof, road]"):
        (root / "dataset.yaml").write_text(f"names: {names}\n")
        keys.add(sample_key(open_dataset(root, "all"), 0))
    assert len(keys) == 2


def test_a_json_file_of_something_else_is_none_of_labelme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another layout may have it: it is not this reader's to refuse."""
    file = tmp_path / "a.json"
    file.write_bytes(b'{"shapes": [], "imagePath": "caf\xe9.png"}')
    assert not is_labelme(file)
    file.write_text('{"shapes": [], "imagePath": "a.png"}')
    assert is_labelme(file)
    monkeypatch.setattr(labelme, "JSON_BYTES", 10)
    assert not is_labelme(file)
    (tmp_path / "b.json").mkdir()
    assert not is_labelme(tmp_path / "b.json")
