"""Hugging Face data sets on the disk, each written by `datasets` itself."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.config.train import DataConfig
from segdistill.data.cache.images import sample_key
from segdistill.data.check import check
from segdistill.data.datasets import open_dataset, open_training, open_unlabelled, splits
from segdistill.data.formats.huggingface import HuggingFaceLayout, is_table
from segdistill.data.formats.table import open_layout

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.unit
NAMES = "names: [background, road, roof]\n"
H, W = 6, 8
RNG = np.random.default_rng(0)
IMAGES = [Image.fromarray(RNG.integers(0, 255, (H, W, 3), np.uint8)) for _ in range(3)]
MASKS = [RNG.integers(0, 3, (H, W), np.uint8) for _ in range(3)]


def rows(*, masks: list | None = None, image: str = "image", mask: str = "mask") -> "datasets.Dataset":
    features = datasets.Features(
        {image: datasets.Image(), mask: datasets.Image(), "note": datasets.Value("string")}
    )
    drawn = [Image.fromarray(one) for one in (masks or MASKS)]
    return datasets.Dataset.from_dict({image: IMAGES, mask: drawn, "note": ["x"] * 3}, features=features)


def save_dict(root: Path) -> None:
    datasets.DatasetDict({"train": rows(), "validation": rows().select([1])}).save_to_disk(str(root))


def save_one(root: Path) -> None:
    rows().save_to_disk(str(root))


def save_parquet(root: Path) -> None:
    rows().to_parquet(str(root / "data" / "train-00000-of-00001.parquet"))


def save_imagefolder(root: Path) -> None:
    folder = root / "train"
    folder.mkdir(parents=True)
    lines = []
    for number, (image, mask) in enumerate(zip(IMAGES, MASKS, strict=True)):
        image.save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "mask_file_name": f"{number}_mask.png"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps its tables there, and shows no bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


@pytest.mark.parametrize(
    ("save", "split", "found", "first"),
    [
        (save_dict, "train", ["train", "validation"], "000000"),
        (save_one, "all", ["all"], "000000"),
        (save_parquet, "train", ["train"], "000000"),
        (save_imagefolder, "train", ["train"], "train/0"),
    ],
)
def test_rows_are_read_as_they_were_written(
    tmp_path: Path, save: Callable[[Path], None], split: str, found: list[str], first: str
) -> None:
    root = tmp_path / "set"
    save(root)
    (root / "dataset.yaml").write_text(NAMES)
    layout = open_layout(root)
    samples = open_dataset(root, split)
    assert isinstance(layout, HuggingFaceLayout)
    assert (layout.splits(), samples.ids[0], len(samples)) == (found, first, 3)
    assert layout.labels.names == ("background", "road", "roof")
    for index in range(3):
        assert np.array_equal(samples[index].image.permute(1, 2, 0), IMAGES[index])
        assert samples[index].mask.tolist() == samples.mask(index).tolist() == MASKS[index].tolist()
    assert list(check(samples)) == [None] * 3
    loaded = pickle.loads(pickle.dumps(samples))
    assert loaded.subset(np.array([False, True, True])).mask(1).tolist() == MASKS[2].tolist()
    assert len({sample_key(samples, index) for index in range(3)}) == 3


def test_nothing_is_decoded_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    save_one(root)
    (root / "dataset.yaml").write_text(NAMES)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    assert len(open_dataset(root, "all")) == 3


def test_columns_and_forms_of_masks(tmp_path: Path) -> None:
    root = tmp_path / "set"
    wide = [mask.astype(np.uint16) * 1000 for mask in MASKS]
    rows(masks=wide, image="photo", mask="label").save_to_disk(str(root))
    (root / "dataset.yaml").write_text(
        "names: [road, roof]\nimage_column: photo\nmask_column: label\n"
        "mask_format: ids\nids: {1000: road, 2000: roof}\nvoid: 0\n"
    )
    expected = np.array([255, 0, 1])[MASKS[0]]
    assert open_dataset(root, "all").mask(0).tolist() == expected.tolist()
    (root / "dataset.yaml").write_text(NAMES)
    with pytest.raises(
        ValueError, match=r"has no column of images 'image' in split 'all'; .* are photo, label"
    ):
        open_dataset(root, "all")


def test_a_bad_cell_is_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    rows(masks=[MASKS[0], MASKS[1] + 7, MASKS[2]]).save_to_disk(str(root))
    (root / "dataset.yaml").write_text(NAMES)
    good, problem, _ = check(open_dataset(root, "all"))
    assert good is None
    assert problem is not None
    assert problem.reason.startswith(f"{root} (all, row 1, column mask) holds the label 7, 8, 9, but labels")


def test_an_empty_cell_is_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    cells = {"image": IMAGES, "mask": [None, Image.fromarray(MASKS[1]), Image.fromarray(MASKS[2])]}
    datasets.Dataset.from_dict(cells, features=features).save_to_disk(str(root))
    (root / "dataset.yaml").write_text(NAMES)
    problem, good, _ = check(open_dataset(root, "all"))
    assert good is None
    assert problem is not None
    assert problem.reason == f"{root} (all, row 0, column mask) is empty"


def test_classes_must_be_named(tmp_path: Path) -> None:
    save_one(tmp_path / "set")
    with pytest.raises(ValueError, match=r"is a Hugging Face data set, .* list the classes as `names` in"):
        open_layout(tmp_path / "set")


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    save_one(root)
    (root / "dataset.yaml").write_text(NAMES)
    next(root.glob("*.arrow")).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"set cannot be opened by `datasets`: "):
        splits(root)


def test_images_alone_are_unlabelled(tmp_path: Path) -> None:
    root = tmp_path / "set"
    save_dict(root)
    (root / "dataset.yaml").write_text(NAMES)
    samples = open_unlabelled(root, open_layout(root).labels)
    assert (len(samples), samples.labelled) == (3, 0)
    assert np.array_equal(samples[2].image.permute(1, 2, 0), IMAGES[2])
    config = DataConfig(root=str(root), val_split="validation", unlabelled=[str(root / "validation")])
    assert (len(open_training(config)), open_training(config).labelled) == (4, 3)


def test_without_datasets_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_one(tmp_path / "set")
    (tmp_path / "set" / "dataset.yaml").write_text(NAMES)
    monkeypatch.setattr("segdistill.data.formats.huggingface.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install segdistill\[hf\]"):
        open_layout(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "text", "listed"),
    [
        ("metadata.csv", "file_name,mask_file_name\na.png,b.png\n", True),
        ("metadata.csv", "\ufeffmask_file_name,file_name\n", True),
        ("train/metadata.jsonl", '{"file_name": "a.png"}\n{"file_name": "b.png"}\n', True),
        ("metadata.csv", "date,camera\n2024,x\n", False),
        ("metadata.csv", "", False),
        ("metadata.jsonl", '{"camera": "file_name"}\n', False),
        ("metadata.jsonl", "not JSON", False),
        ("metadata.jsonl", "3", False),
    ],
)
def test_a_metadata_file_counts_where_it_lists_files(
    tmp_path: Path, name: str, text: str, listed: bool
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert is_table(tmp_path) is listed
