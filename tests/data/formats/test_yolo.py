"""YOLO's polygons: masks as pycocotools draws them, an index more than in the files, and what is refused."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from segdistill.config.train import DataConfig
from segdistill.data.cache.images import DecodedSamples, sample_key
from segdistill.data.check import check, survey
from segdistill.data.datasets import open_dataset, open_training, splits
from segdistill.data.formats.table import open_layout, open_training_layout
from segdistill.data.formats.yolo import YoloLayout, label_file
from segdistill.data.polygons import draw, polygon_runs

pytestmark = pytest.mark.unit
H, W = 20, 40
DATA = "path: ../elsewhere\ntrain: ../train/images\nval: val/images\nnames: [road, roof]\nnc: 2\nlicense: x\n"
SQUARE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a data set of the training images a (without polygons) and sub/b, and c for validation."""

    def write(text: str = SQUARE, data: str = DATA) -> Path:
        for name in ("train/images/a.jpg", "train/images/sub/b.png", "val/images/c.jpg"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (W, H)).save(tmp_path / name)
        for name in ("train/labels/sub/b.txt", "val/labels/c.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        (tmp_path / "data.yaml").write_text(data)
        return tmp_path

    return write


@pytest.mark.parametrize("names", ["[road, roof]", "{0: road, 1: roof}"])
def test_an_export_needs_no_description(make: Make, names: str) -> None:
    text = "1 0 0 0.75 0 0.75 1 0 1\n\n" + SQUARE
    root = make(text, DATA.replace("[road, roof]", names))
    samples = open_dataset(root, "train")
    assert splits(root) == ["train", "val"]
    assert samples.labels.names == ("background", "road", "roof")
    assert list(samples.ids) == ["train/images/a", "train/images/sub/b"]
    square = polygon_runs([[4, 2, 20, 2, 20, 10, 4, 10]], (H, W))
    large = polygon_runs([[0, 0, 30, 0, 30, 20, 0, 20]], (H, W))
    expected = draw([(1, square), (2, large)], (H, W))
    assert (expected[5, 10], expected[15, 10], expected[15, 35]) == (1, 2, 0)
    assert samples[1].mask.tolist() == samples.mask(1).tolist() == expected.tolist()
    assert pickle.loads(pickle.dumps(samples)).mask(1).tolist() == expected.tolist()
    assert samples[0].mask.shape == samples.mask(0).shape == (H, W)
    assert samples[0].mask.sum() == 0
    assert list(check(samples)) == [None, None]
    assert survey(samples).pixels.sum() == 2 * H * W


def test_training_and_the_cache_read_polygons(make: Make, tmp_path: Path) -> None:
    samples = open_training(DataConfig(root=str(make())))
    decoded = DecodedSamples(samples, None, tmp_path / "cache")
    with decoded.cache.writer(0) as writer:
        for index in range(2):
            assert decoded.write(writer, index, samples[index], 1e9) == 4 * H * W
    decoded.cache.reload()
    assert decoded.missing(range(2)) == []
    assert decoded[1].mask.tolist() == samples[1].mask.tolist()


def test_polygons_that_appear_are_another_cache_entry(make: Make) -> None:
    samples = open_dataset(make(), "train")
    before = sample_key(samples, 0)
    (make() / "train" / "labels" / "a.txt").write_text(SQUARE)
    assert sample_key(samples, 0) != before


def test_other_classes_are_another_cache_entry(make: Make) -> None:
    keys = {
        sample_key(open_dataset(make(data=DATA.replace("roof", name)), "train"), 1)
        for name in ("x", "background")
    }
    assert len(keys) == 2


def test_a_class_called_background_is_index_0(make: Make) -> None:
    text = "1 0 0 1 0 1 1 0 1\n2 0 0 0.5 0 0.5 1 0 1\n"
    samples = open_dataset(make(text, "train: train/images\nnames: [a, background, b]\n"), "train")
    assert samples.labels.names == ("background", "a", "b")
    assert samples.mask(1)[5, [5, 35]].tolist() == [2, 0]


def test_a_turned_photograph_has_its_mask_upright(make: Make) -> None:
    """The size comes from the header, as the image is shown."""
    root = make("0 0 0 1 0 1 0.5 0 0.5\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (W, H)).save(root / "val" / "images" / "c.jpg", exif=exif)
    samples = open_dataset(root, "val")
    assert samples.mask(0).tolist() == samples[0].mask.tolist()
    assert samples.mask(0).shape == (W, H)
    assert samples.mask(0)[: W // 2 - 1].min() == 1


def test_a_split_may_be_a_list_or_several_folders(make: Make) -> None:
    root = make(data="train: [train/images, val/images]\nval: val.txt\nnames: [road, roof]\n")
    (root / "val.txt").write_text("./val/images/c.jpg\n\n")
    assert list(open_dataset(root, "train").ids) == ["train/images/a", "train/images/sub/b", "val/images/c"]
    samples = open_dataset(root, "val")
    assert list(samples.ids) == ["val/images/c"]
    assert samples.mask(0).sum() > 0
    (root / "val.txt").write_text("val/images/gone.jpg\nval/images/c.jpg\n")
    with pytest.raises(FileNotFoundError, match=r"1 files of the data set are missing.*gone\.jpg"):
        open_dataset(root, "val")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("images/train/images/sub/a.b.png", "images/train/labels/sub/a.b.txt"),
        ("images/a.jpg", "labels/a.txt"),
        ("photos/images.jpg", "photos/images.txt"),
    ],
)
def test_polygons_lie_beside_the_images(image: str, label: str) -> None:
    assert label_file(Path(image)) == Path(label)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0 0 1 0 1 1", "line 2 of .*b.txt: the class is '2', but classes are 0 to 1"),
        ("-1 0 0 1 0 1 1", "the class is '-1'"),
        ("0.0 0 0 1 0 1 1", r"the class is '0\.0'"),
        ("0 0.5 0.5 0.2 0.2", r"three points or more, but 4 numbers follow the class \(a box,"),
        ("0", "but 0 numbers follow"),
        ("0 0 0 1 0 1 1 0", "an odd number of coordinates"),
        ("0 0 0 x 0 1 1", "could not convert string to float: 'x'"),
        ("0 0 0 320 0 1 1", "the coordinate 320 is not normalised"),
        ("0 0 0 nan 0 1 1", "the coordinate nan is not normalised"),
    ],
)
def test_a_wrong_line_is_a_problem(make: Make, line: str, reason: str) -> None:
    good, problem = check(open_dataset(make(SQUARE + line), "train"))
    assert good is None
    assert problem is not None
    assert problem.reason.startswith("line 2 of ")
    with pytest.raises(ValueError, match=reason):
        open_dataset(make(SQUARE + line), "train")[1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("train: a\nnames: road\n", r"data\.yaml: `names` must list the class names"),
        ("train: a\nnames: {0: a, 2: b}\n", "must have the numbers 0 to 1, each once"),
        ("train: a\nnames: [a, b]\nnc: 3\n", "nc is 3, but `names` has 2 classes"),
        ("train: a\nnames: [a, a]\n", "class names repeat"),
    ],
)
def test_a_wrong_description_says_why(make: Make, data: str, reason: str) -> None:
    root = make(data=data)
    with pytest.raises(ValueError, match=reason):
        open_layout(root)


@pytest.mark.parametrize("value", ["/etc", "../../x", "a/../../b", "3", "''", "[[x]]"])
def test_a_path_that_leads_out_is_refused(make: Make, value: str) -> None:
    root = make(data=f"train: [{value}]\nnames: [a, b]\n")
    with pytest.raises(ValueError, match="must be a path below"):
        open_dataset(root, "train")


def test_a_list_that_leads_out_is_refused(make: Make) -> None:
    root = make(data="train: list.txt\nnames: [a, b]\n")
    (root / "list.txt").write_text("/etc/a.jpg\n")
    with pytest.raises(ValueError, match=r"'/etc/a\.jpg' must be a path below"):
        open_dataset(root, "train")


def test_a_split_that_is_not_there_is_named(make: Make) -> None:
    root = make()
    with pytest.raises(FileNotFoundError, match=r"has no split 'test'; splits here: train, val"):
        open_dataset(root, "test")
    make(data="train: none/images\nnames: [a, b]\n")
    with pytest.raises(
        FileNotFoundError, match=r"none/images, named in .*data\.yaml, is neither a folder nor"
    ):
        open_dataset(root, "train")


def test_no_polygons_at_all_are_an_error(make: Make) -> None:
    root = make()
    (root / "train" / "labels").rename(root / "train" / "label")
    with pytest.raises(
        FileNotFoundError, match=r"none of the 2 images of split 'train' has .*train/labels/a\.txt"
    ):
        open_dataset(root, "train")


def test_training_and_validation_must_differ(make: Make) -> None:
    root = make(data="train: train/images\nval: train/images\nnames: [a, b]\n")
    with pytest.raises(
        ValueError, match=r"has the same images as `train` and as `val`, so that .*name others as"
    ):
        open_training_layout(DataConfig(root=str(root)))
    assert open_training_layout(DataConfig(root=str(root), val_share=0.5)).one_split


def test_a_dataset_yaml_comes_first_and_a_data_yaml_may_lie_elsewhere(make: Make, tmp_path: Path) -> None:
    root = make()
    (root / "mine.yaml").write_text(DATA.replace("road", "path"))
    assert open_layout(root, root / "mine.yaml").labels.names == ("background", "path", "roof")
    assert isinstance(open_layout(root), YoloLayout)
    (root / "dataset.yaml").write_text("names: [x, y]\nimages: '{split}/images'\nmasks: '{split}/masks'\n")
    assert open_layout(root).labels.names == ("x", "y")


def test_a_data_yaml_of_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("a: 1\n")
    with pytest.raises(FileNotFoundError, match="has none of the layouts that are read"):
        open_layout(tmp_path)


def test_without_pycocotools_the_extra_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match=r"install segdistill\[formats\]"):
        open_layout(make())
