"""Validation images that a description holds out: of every layout, always the same ones, by groups."""

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest

from segdistill.config.train import DataConfig
from segdistill.data.datasets import open_dataset, open_training, open_validation, splits
from segdistill.data.formats.division import Division, read_division
from segdistill.data.formats.table import open_layout, open_training_layout
from segdistill.data.samples import Samples

pytestmark = pytest.mark.unit
Make = Callable[..., Path]
GROUP = r"([a-z])_\d+(?:\.png)?$"
IDS = [f"{scene}_{number}" for scene in "abcdefgh" for number in range(4)]


def names(samples: Samples) -> set[str]:
    """The last part of each id, that of YOLO's is a path, without the suffix that Supervisely's have."""
    return {Path(samples.files(index).id).name.removesuffix(".png") for index in range(len(samples))}


def drawn(name: str) -> float:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") / 2**64


def test_every_layout_divides_its_one_split(every_layout: Make) -> None:
    root = every_layout(IDS, val=0.3)
    assert splits(root) == ["train", "val"]
    train, val = open_dataset(root, "train"), open_dataset(root, "val")
    assert names(train) | names(val) == set(IDS)
    assert not names(train) & names(val)
    assert 3 < len(val) < 17
    config = DataConfig(root=str(root))
    assert names(open_training(config)) == names(train)
    assert names(open_validation(config)) == names(val)
    sample = val[0]
    assert {0, 1, 2} == set(sample.mask.unique().tolist())
    kept = names(val)
    every_layout([*IDS, *(f"new_{number}" for number in range(20))], val=0.3)
    assert kept < names(open_dataset(root, "val"))


def test_groups_stay_together_in_every_layout(every_layout: Make) -> None:
    root = every_layout(IDS, val=0.4, group=GROUP)
    scenes = {split: {name[0] for name in names(open_dataset(root, split))} for split in ("train", "val")}
    assert scenes["val"] == {scene for scene in "abcdefgh" if drawn(scene) < 0.4}
    assert scenes["train"] == set("abcdefgh") - scenes["val"]
    assert len(open_dataset(root, "val")) == 4 * len(scenes["val"])


def test_other_splits_stay(every_layout: Make) -> None:
    every_layout(IDS[:20])
    root = every_layout(IDS[20:], "test", val=0.3)
    assert splits(root) == ["test", "train", "val"]
    assert names(open_dataset(root, "test")) == set(IDS[20:])
    assert names(open_dataset(root, "train")) | names(open_dataset(root, "val")) == set(IDS[:20])


def test_a_split_of_another_name_is_divided_where_it_is_the_only_one(every_layout: Make) -> None:
    root = every_layout(IDS, "test", val=0.3)
    assert splits(root) == ["train", "val"]
    assert names(open_dataset(root, "train")) | names(open_dataset(root, "val")) == set(IDS)


def test_a_group_alone_serves_the_option(every_layout: Make) -> None:
    """`--data.val_share` holds whole groups out, too."""
    root = every_layout(IDS, group=GROUP)
    config = DataConfig(root=str(root), split=splits(root)[0], val_share=0.4)
    val = names(open_validation(config))
    assert {name[0] for name in val} == {scene for scene in "abcdefgh" if drawn(scene) < 0.4}
    assert names(open_training(config)) == set(IDS) - val


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("val", 0, "val is '0', but must be a fraction of the images"),
        ("val", 1.0, "val is '1.0', but must be a fraction"),
        ("val", True, "val is 'True', but"),
        ("val", float("nan"), "val is 'nan', but"),
        ("group", "(a", r"group is '\(a', but must be a regular expression \(missing \)"),
        ("group", 3, "group is '3', but must be a regular expression"),
        ("group", "a_", "group is 'a_', but must have parentheses"),
    ],
)
def test_what_cannot_divide_is_refused_before_images_are_looked_for(
    every_layout: Make, key: str, value: object, reason: str
) -> None:
    root = every_layout(["a_0"], **{key: value})
    for image in root.rglob("*.png"):
        image.unlink()
    with pytest.raises(ValueError, match=rf"\.yaml: {reason}"):
        open_layout(root)


def test_an_id_without_group_is_named() -> None:
    division = read_division({"val": 0.5, "group": "^(.+)_|$"}, "dataset.yaml")
    assert division.groups(["a_b_1", "a_b_2"]) == ["a_b", "a_b"]
    with pytest.raises(ValueError, match=r"finds no group in the id 'single': write one that fits all ids"):
        division.groups(["a_1", "single"])
    assert Division().groups(["a_1", "single"]) == ["a_1", "single"]


@pytest.mark.parametrize(
    "every_layout",
    "ade cityscapes coco cvat folders labelme labelstudio supervisely voc yolo".split(),
    indirect=True,
)
def test_a_split_val_that_is_there_is_not_replaced(every_layout: Make) -> None:
    """`datasets` calls it validation."""
    every_layout(IDS[:4])
    root = every_layout(IDS[4:], "val")
    assert splits(root) == ["train", "val"]
    if root.name == "yolo":  # which names the images of its split under the same key
        assert names(open_dataset(root, "val")) == set(IDS[4:])
        return
    with (root / "dataset.yaml").open("a") as file:
        file.write("val: 0.1\n")
    with pytest.raises(ValueError, match=r"but there is a split 'val' already: remove the line"):
        open_layout(root)


@pytest.mark.parametrize(
    "every_layout",
    "ade cityscapes coco cvat folders labelme labelstudio supervisely voc".split(),
    indirect=True,
)
def test_of_several_splits_it_must_be_clear_which_is_divided(every_layout: Make) -> None:
    """Of those that have splits of any name: YOLO and `datasets` know train, validation and test alone."""
    every_layout(IDS[:4], "test")
    root = every_layout(IDS[4:], "other", val=0.3)
    with pytest.raises(
        ValueError, match=r"divides the split 'train', but the splits are other, test: remove"
    ):
        open_layout(root)


def test_none_or_all_is_refused_with_the_numbers(every_layout: Make) -> None:
    root = every_layout(IDS, val=1e-9)
    with pytest.raises(ValueError, match=r"\.yaml: val is 1e-09, which holds out none of the 32 samples"):
        open_dataset(root, "val")


def test_what_is_left_can_be_divided_again(every_layout: Make) -> None:
    root = every_layout(IDS, val=0.3)
    config = DataConfig(root=str(root), val_share=0.4)
    held_out, val = {*open_validation(config).ids}, {*open_dataset(root, "val").ids}
    train = {*open_dataset(root, "train").ids}
    assert held_out < train
    assert not held_out & val
    assert {*open_training(config).ids} == train - held_out


def test_a_fraction_of_what_is_left_is_no_fraction_of_all() -> None:
    ids = [f"image-{number}" for number in range(20_000)]
    division = Division(val=0.3)
    first = division.held_out(ids, 0.3, "val", "train")
    left = [name for name, out in zip(ids, first, strict=True) if not out]
    again = division.held_out(left, 0.2, "data.val_share", "train", again=True)
    assert again.mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("every_layout", ["folders"], indirect=True)
def test_folders_without_a_split_are_divided(every_layout: Make) -> None:
    root = every_layout(IDS)
    description = "names: [a, b, c]\nimages: train/images\nmasks: train/masks\nval: 0.3\n"
    (root / "dataset.yaml").write_text(description)
    assert splits(root) == ["train", "val"]
    assert not open_training_layout(DataConfig(root=str(root))).one_split
    assert names(open_dataset(root, "train")) | names(open_dataset(root, "val")) == set(IDS)
