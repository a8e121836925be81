"""Readers of data sets, on real files and, where they are, on real data sets."""

import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.config.train import DataConfig
from segdistill.data.datasets import open_dataset, open_training, open_unlabelled, open_validation, splits
from segdistill.data.download import write_augmented_list
from segdistill.data.labels import VOC
from segdistill.data.samples import Samples

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("SEGDISTILL_SHARED", ROOT.parent / "shared"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """A VOC devkit of two training images and one for validation; returns its root."""
    folder = tmp_path / "voc" / "VOCdevkit" / "VOC2012"
    for index, name in enumerate(("one", "two", "three")):
        write(folder / "JPEGImages" / f"{name}.jpg", np.full((4, 6, 3), 40 * index, np.uint8))
        write(folder / "SegmentationClass" / f"{name}.png", np.array([[index] * 5 + [255]] * 4, np.uint8))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("one\ntwo\n")
    (lists / "val.txt").write_text("three\n")
    return tmp_path / "voc"


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder data set of one image whose mask holds `value`, `void` being its void index."""

    def make(name: str = "own", value: int = 1, void: int = 2, names: str = "[x, y]") -> Path:
        root = tmp_path / name
        write(root / "train" / "images" / "sub" / "p.png", np.zeros((3, 5, 3), np.uint8))
        write(
            root / "train" / "masks" / "sub" / "p_mask.png",
            np.array([[0, value, value, value, void]] * 3, np.uint8),
        )
        (root / "dataset.yaml").write_text(
            f"names: {names}\nvoid: {void}\nimages: '{{split}}/images'\nmasks: '{{split}}/masks'\n"
            "mask_name: '{stem}_mask.png'\n"
        )
        return root

    return make


def test_a_devkit_reads_its_lists(devkit: Path) -> None:
    train = open_dataset(devkit, "train")
    assert (len(train), train.labels, splits(devkit)) == (2, VOC, ["train", "val"])
    sample = train[1]
    assert (sample.id, sample.image.shape, sample.image.dtype) == ("two", (3, 4, 6), torch.uint8)
    assert sample.mask.tolist() == [[1, 1, 1, 1, 1, 255]] * 4
    assert open_dataset(devkit / "VOCdevkit" / "VOC2012", "val")[0].id == "three"


def test_a_split_may_be_any_list_file(devkit: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("/JPEGImages/three.jpg /SegmentationClass/three.png\n\none\n")
    assert list(open_dataset(devkit, str(tmp_path / "mine.txt")).ids) == ["three", "one"]


def test_an_unknown_split_lists_the_known_ones(devkit: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"trian\.txt does not exist\); splits here: train, val"):
        open_dataset(devkit, "trian")


def test_the_augmented_list_is_every_extra_mask_outside_val(devkit: Path) -> None:
    folder = devkit / "VOCdevkit" / "VOC2012"
    assert write_augmented_list(folder) is None
    for name in ("one", "three"):
        write(folder / "SegmentationClassAug" / f"{name}.png", np.full((4, 6), 7, np.uint8))
    assert write_augmented_list(folder) is not None
    augmented = open_dataset(devkit, "train_aug")
    assert list(augmented.ids) == ["one"]
    assert augmented[0].mask.unique().tolist() == [7]


def test_a_split_may_be_a_part_of_a_folders_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"images_{split}" / "sub").mkdir(parents=True)
    (tmp_path / "dataset.yaml").write_text("images: images_{split}\nmasks: masks_{split}\nnames: [x, y]\n")
    assert splits(tmp_path) == ["train", "val"]


def test_folders_are_described_by_a_file(folders: Callable[..., Path]) -> None:
    root = folders()
    dataset = open_dataset(root, "train")
    assert (list(dataset.ids), dataset.labels.names, splits(root)) == (["sub/p"], ("x", "y"), ["train"])
    assert dataset[0].mask.tolist() == [[0, 1, 1, 1, 255]] * 3


def test_a_label_outside_the_set_is_an_error_and_never_clamped(folders: Callable[..., Path]) -> None:
    with pytest.raises(
        ValueError,
        match=r"p_mask\.png holds the label 9, but labels are 0 to 1 and void is 2; .* say `void: 9`",
    ):
        open_dataset(folders(value=9), "train")[0]


def test_a_mask_of_another_size_is_an_error(folders: Callable[..., Path]) -> None:
    root = folders()
    write(root / "train" / "masks" / "sub" / "p_mask.png", np.zeros((5, 3), np.uint8))
    with pytest.raises(ValueError, match="3x5 pixels, but its image is 5x3"):
        open_dataset(root, "train")[0]


def test_a_missing_file_is_an_error_before_training(folders: Callable[..., Path]) -> None:
    root = folders()
    (root / "train" / "masks" / "sub" / "p_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files of the data set are missing.*data check"):
        open_dataset(root, "train")


def test_a_folder_without_description_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dataset\.yaml"):
        open_dataset(tmp_path, "train")


def test_unlabelled_images_are_void(folders: Callable[..., Path]) -> None:
    dataset = open_unlabelled(folders() / "train" / "images", VOC)
    assert dataset[0].mask.tolist() == [[255] * 5] * 3


def test_several_sets_are_concatenated(folders: Callable[..., Path]) -> None:
    root, more = folders(), folders("more", void=255)
    config = DataConfig(root=str(root), extra=[f"{more}@train"], unlabelled=[str(more / "train" / "images")])
    samples = open_training(config)
    assert [samples[i].mask[0].tolist() for i in range(3)] == [
        [0, 1, 1, 1, 255], [0, 1, 1, 1, 255], [255] * 5,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("share", "labelled"),
    [(0.1, [9]), (0.3, [3, 6, 9]), (0.5, [1, 3, 5, 7, 9]), (0.99, [1, 2, 3, 4, 5, 6, 7, 8, 9])],
)
@pytest.mark.parametrize("distils", [True, False])
def test_a_share_of_the_masks_is_used_and_the_rest_is_distilled(
    tmp_path: Path, share: float, labelled: list[int], distils: bool
) -> None:
    (tmp_path / "dataset.yaml").write_text(
        "names: [x, y]\npalette: [[0, 0, 0], [9, 9, 9]]\nimages: '{split}/i'\nmasks: '{split}/m'\n"
    )
    for number in range(10):
        write(tmp_path / "train" / "i" / f"{number}.png", np.zeros((2, 2, 3), np.uint8))
        write(tmp_path / "train" / "m" / f"{number}.png", np.ones((2, 2), np.uint8))
    config = DataConfig(root=str(tmp_path), labelled_share=share)
    samples = open_training(config, distils=distils)
    assert samples.labelled == len(labelled)
    rest = sorted(set(range(10)) - set(labelled)) if distils else []
    assert [int(samples.files(i).id) for i in range(len(samples))] == labelled + rest
    first = [int(samples[i].mask[0, 0]) for i in range(len(samples))]
    assert first == [1] * len(labelled) + [255] * len(rest)


def test_a_quick_trial_takes_an_even_choice_of_each_split(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(
        "names: [x, y]\npalette: [[0, 0, 0], [9, 9, 9]]\nimages: '{split}/i'\nmasks: '{split}/m'\n"
    )
    for number in range(10):
        for split in ("train", "val")[: 1 + (number < 3)]:
            write(tmp_path / split / "i" / f"{number}.png", np.zeros((2, 2, 3), np.uint8))
            write(tmp_path / split / "m" / f"{number}.png", np.ones((2, 2), np.uint8))
        write(tmp_path / "photos" / f"p{number}.png", np.zeros((2, 2, 3), np.uint8))
    config = DataConfig(root=str(tmp_path), unlabelled=[str(tmp_path / "photos")], max_images=4)
    samples = open_training(config)
    assert [samples.files(i).id for i in range(samples.labelled)] == ["2", "4", "7", "9"]
    assert len(samples) == 4 + 4
    assert len(open_validation(config)) == 3


def test_no_mask_at_all_is_refused(folders: Callable[..., Path]) -> None:
    config = DataConfig(root=str(folders()), labelled_share=0.01)
    with pytest.raises(ValueError, match=r"data.labelled_share is 0.01, but must leave one or more of 1 "):
        open_training(config)


def test_sets_of_other_classes_are_not_mixed(folders: Callable[..., Path]) -> None:
    config = DataConfig(root=str(folders()), extra=[str(folders("other", names="[x, z]"))])
    with pytest.raises(ValueError, match=r"has the classes x, z, but .* has x, y"):
        open_training(config)


def test_ids_may_have_dots_in_them(devkit: Path) -> None:
    folder = devkit / "VOCdevkit" / "VOC2012"
    write(folder / "JPEGImages" / "frame.0007.jpg", np.zeros((4, 6, 3), np.uint8))
    write(folder / "SegmentationClass" / "frame.0007.png", np.zeros((4, 6), np.uint8))
    (folder / "ImageSets" / "Segmentation" / "dots.txt").write_text("frame.0007\nframe.0007.jpg\n")
    assert list(open_dataset(devkit, "dots").ids) == ["frame.0007", "frame.0007"]


def test_a_description_elsewhere_turns_its_void_11_into_255(tmp_path: Path) -> None:
    write(tmp_path / "data" / "val" / "i" / "p.png", np.zeros((1, 4, 3), np.uint8))
    write(tmp_path / "data" / "val" / "m" / "p.png", np.array([[0, 10, 11, 11]], np.uint8))
    layout = tmp_path / "mine.yaml"
    names = ", ".join(f"class{i}" for i in range(11))
    layout.write_text(f"names: [{names}]\nvoid: 11\nimages: '{{split}}/i'\nmasks: '{{split}}/m'\n")
    dataset = open_dataset(tmp_path / "data", "val", layout=layout)
    assert dataset[0].mask.tolist() == [[0, 10, 255, 255]]
    assert splits(tmp_path / "data", layout) == ["val"]


def test_a_layout_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.layout .*mine\.yaml does not exist"):
        open_dataset(tmp_path, "train", layout=tmp_path / "mine.yaml")


@pytest.mark.parametrize("key", ["images", "masks"])
def test_a_description_without_folders_says_which(folders: Callable[..., Path], key: str) -> None:
    description = folders() / "dataset.yaml"
    lines = description.read_text().splitlines()
    description.write_text("\n".join(line for line in lines if not line.startswith(key)))
    with pytest.raises(ValueError, match=rf"dataset\.yaml has no `{key}`"):
        open_dataset(description.parent, "train")


def test_a_split_without_folder_or_images_is_named(folders: Callable[..., Path]) -> None:
    root = folders()
    with pytest.raises(FileNotFoundError, match=r"no split 'test' \(.*images is not a folder\)"):
        open_dataset(root, "test")
    for folder in ("images", "masks"):
        (root / "test" / folder).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"split 'test' of .* has no images"):
        open_dataset(root, "test")


@pytest.mark.parametrize("root", ["", "no/such/folder"])
def test_no_root_says_how_to_name_one(root: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a folder: name that of the data set as data\.root"):
        open_dataset(root, "train")


def test_a_folder_without_images_is_not_an_unlabelled_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no images"):
        open_unlabelled(tmp_path, VOC)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        open_unlabelled(tmp_path / "absent", VOC)


# Validation on other images than training


def one_split(root: Path, count: int) -> Path:
    """A folder data set of `count` images that are not divided into splits."""
    (root / "dataset.yaml").write_text("names: [x, y]\nimages: images\nmasks: masks\n")
    for number in range(count):
        write(root / "images" / f"{number}.png", np.zeros((2, 2, 3), np.uint8))
        write(root / "masks" / f"{number}.png", np.ones((2, 2), np.uint8))
    return root


def ids(samples: Samples) -> list[str]:
    return [samples.files(index).id for index in range(len(samples))]


@pytest.mark.parametrize("val_split", ["val", "nosuch"])
def test_validation_on_the_training_images_is_refused_with_the_fix(tmp_path: Path, val_split: str) -> None:
    config = DataConfig(root=str(one_split(tmp_path, 4)), val_split=val_split)
    with pytest.raises(ValueError, match=r"no \{split\} in .* same ones: hold some out with data\.val_share"):
        open_validation(config)


def test_a_share_is_held_out_and_stays_held_out_when_files_are_added(tmp_path: Path) -> None:
    config = DataConfig(root=str(one_split(tmp_path, 100)), val_share=0.2)
    train, val = ids(open_training(config)), ids(open_validation(config))
    assert sorted(train + val) == sorted(map(str, range(100)))
    assert 10 < len(val) < 30
    one_split(tmp_path, 200)
    more, held = ids(open_training(config)), ids(open_validation(config))
    assert set(train) <= set(more)
    assert set(val) <= set(held)
    assert open_validation(config).masks is not None


def test_a_larger_share_holds_out_what_a_smaller_one_did(tmp_path: Path) -> None:
    root = str(one_split(tmp_path, 60))
    small, large = (set(ids(open_validation(DataConfig(root=root, val_share=s)))) for s in (0.2, 0.5))
    assert small < large


def test_a_share_may_be_held_out_of_a_named_split_too(devkit: Path) -> None:
    """Of two training images one each; the list `val` is not read."""
    drawn = {
        name: int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") / 2**64
        for name in ("one", "two")
    }
    config = DataConfig(root=str(devkit), val_share=sum(drawn.values()) / 2)
    assert ids(open_validation(config)) == [min(drawn, key=drawn.__getitem__)]
    assert ids(open_training(config)) == [max(drawn, key=drawn.__getitem__)]


@pytest.mark.parametrize(("count", "share", "what"), [(3, 1e-6, "none"), (2, 0.999999, "all")])
def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path, count: int, share: float, what: str) -> None:
    config = DataConfig(root=str(one_split(tmp_path, count)), val_share=share)
    for opened in (open_training, open_validation):
        with pytest.raises(ValueError, match=rf"holds out {what} of the {count} samples of 'train'"):
            opened(config)


def test_a_share_and_a_split_for_validation_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"data\.val_split is 'test', but must be left as it is"):
        DataConfig(val_share=0.1, val_split="test")
    with pytest.raises(ValueError, match=r"data\.val_share is 1\.0, but must be from 0 to below 1"):
        DataConfig(val_share=1.0)


def test_a_validation_split_that_is_not_there_names_both_ways_out(folders: Callable[..., Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"splits here: train; .*data\.val_split.*data\.val_share"):
        open_validation(DataConfig(root=str(folders())))


@needs_shared
def test_camvid_reads_by_its_layout() -> None:
    layout = ROOT / "configs" / "layouts" / "camvid.yaml"
    sizes = {s: len(open_dataset(SHARED / "data/camvid", s, layout=layout)) for s in ("train", "val", "test")}
    assert sizes == {"train": 367, "val": 101, "test": 233}
    sample = open_dataset(SHARED / "data/camvid", "val", layout=layout)[0]
    assert sample.image.shape == (3, 360, 480)
    assert set(sample.mask.unique().tolist()) <= {*range(11), 255}


@needs_shared
def test_voc_animals_reads_as_a_devkit() -> None:
    train, val = (open_dataset(SHARED / "data/voc-animals", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (3131, 300)
    assert max(val[0].image.shape[1:]) == 320
    assert set(val[0].mask.unique().tolist()) <= {*range(21), 255}
