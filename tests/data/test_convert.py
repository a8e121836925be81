"""A data set of any layout as a VOC devkit: the same masks, linked images, and only what is missing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.config.train import DataConfig
from segdistill.data import convert as module
from segdistill.data.convert import devkit_name
from segdistill.data.datasets import open_dataset, open_training, open_validation, splits
from segdistill.data.images import read_mask
from segdistill.data.label_folder import first_difference
from segdistill.inspecting import convert_dataset

pytestmark = pytest.mark.unit
Make = Callable[..., Path]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the masks that are written."""
    names: list[str] = []
    write = module.write_image

    def spy(path: Path, *arguments: Any) -> None:
        names.append(path.name)
        write(path, *arguments)

    monkeypatch.setattr(module, "write_image", spy)
    return names


def test_the_masks_of_every_layout_read_back_as_they_were(every_layout: Make, tmp_path: Path) -> None:
    every_layout(["a", "b_1", "c.2"])
    root, out = every_layout(["d"], "test"), tmp_path / "out"
    record = convert_dataset(root, out)
    assert (record["images"], record["computed"], record["problems"]) == (4, 4, 0)
    assert record["splits"] == {"train": 3, "test": 1}
    assert splits(out) == ["test", "train"]
    for split in splits(root):
        before, after = open_dataset(root, split), open_dataset(out, split)
        assert (len(before), before.labels.names) == (len(after), after.labels.names)
        for index in range(len(before)):
            assert before[index].mask.tolist() == after[index].mask.tolist()
            assert before[index].image.tolist() == after[index].image.tolist()
            assert Path(after.images[index]).samefile(before.images[index])
    with Image.open(next((out / "SegmentationClass").iterdir())) as mask:
        assert mask.mode == "P"
        palette = [channel for colour in before.labels.palette for channel in colour]
        assert mask.getpalette()[: len(palette)] == palette


def test_a_held_out_split_is_written_as_it_is_drawn(every_layout: Make, tmp_path: Path) -> None:
    root = every_layout([f"{number}" for number in range(12)], val=0.4)
    convert_dataset(root, tmp_path / "out")
    config, converted = DataConfig(root=str(root)), DataConfig(root=str(tmp_path / "out"))
    for opened in (open_training, open_validation):
        before, after = opened(config), opened(converted)
        images = [[samples[i].image.tolist() for i in range(len(samples))] for samples in (before, after)]
        assert images[0] == images[1]


def test_a_second_call_writes_what_is_missing_or_has_changed(
    every_layout: Make, tmp_path: Path, written: list[str]
) -> None:
    root, out = every_layout(["a", "b", "c"]), tmp_path / "out"
    convert_dataset(root, out)
    assert len(written) == 3
    written.clear()
    assert convert_dataset(root, out)["computed"] == 0
    masks = sorted((out / "SegmentationClass").iterdir())
    masks[0].unlink()
    source = Path(open_dataset(root, splits(root)[0]).masks[1])  # of all images, where one file has them
    os.utime(source, (source.stat().st_atime, source.stat().st_mtime + 60))
    record = convert_dataset(root, out)
    changed = masks if root.name in {"coco", "labelstudio"} else masks[:2]
    assert sorted(written) == [mask.name for mask in changed]
    assert (record["computed"], record["images"]) == (len(written), 3)
    written.clear()
    assert convert_dataset(root, out)["computed"] == 0


def test_a_bad_pair_is_named_and_left_out(
    every_layout: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = every_layout(["a", "b"]), tmp_path / "out"
    (split,) = splits(root)
    Path(open_dataset(root, split).images[1]).write_bytes(b"no image")
    record = convert_dataset(root, out)
    assert (record["problems"], record["splits"]) == (1, {split: 1})
    assert len(open_dataset(out, split)) == 1
    assert f"Left out: {split} " in capsys.readouterr().err


@pytest.mark.parametrize(
    "every_layout",
    "ade coco cvat folders huggingface labelme labelstudio supervisely voc yolo".split(),
    indirect=True,
)
def test_other_classes_need_another_folder(every_layout: Make, tmp_path: Path) -> None:
    """Of those with classes of their own: Cityscapes always has its 19."""
    root, out = every_layout(["a"]), tmp_path / "out"
    convert_dataset(root, out)
    every_layout(["a"], classes={"background": ["roof"]})
    with pytest.raises(
        ValueError, match=r"were made with classes\.names \['background', 'road', 'roof'\], not "
    ):
        convert_dataset(root, out)
    merged = tmp_path / "merged"
    convert_dataset(root, merged)
    (split,) = splits(root)
    assert open_dataset(merged, split).labels.names == ("background", "road")
    assert open_dataset(merged, split)[0].mask.tolist() == open_dataset(root, split)[0].mask.tolist()


def test_a_folder_of_something_else_is_refused(every_layout: Make, tmp_path: Path) -> None:
    root, out = every_layout(["a"]), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt but no masks of `segdistill data convert`"):
        convert_dataset(root, out)
    with pytest.raises(ValueError, match="lie in each other"):
        convert_dataset(root, root / "converted")


def test_images_of_one_name_get_numbers_and_void_stays_void(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for split in ("train", "val"):
        for folder, pixels in (("images", np.zeros((2, 4, 3))), ("masks", [[0, 1, 7, 7]] * 2)):
            (root / split / folder / "sub").mkdir(parents=True)
            Image.fromarray(np.array(pixels, np.uint8)).save(root / split / folder / "sub" / "a b.png")
    description = "names: [x, y]\nvoid: 7\nimages: '{split}/images'\nmasks: '{split}/masks'\n"
    (root / "dataset.yaml").write_text(description)
    convert_dataset(root, tmp_path / "out")
    lists = tmp_path / "out" / "ImageSets" / "Segmentation"
    assert [(lists / f"{split}.txt").read_text() for split in ("train", "val")] == [
        "sub_a_b\n",
        "sub_a_b-2\n",
    ]
    stored = read_mask(tmp_path / "out" / "SegmentationClass" / "sub_a_b-2.png")
    assert stored.tolist() == [[0, 1, 255, 255]] * 2
    assert open_dataset(tmp_path / "out", "val")[0].mask.tolist() == stored.tolist()


def test_sbds_masks_stay_beside_vocs(tmp_path: Path) -> None:
    """The same images have other masks in `train_aug`."""
    root = tmp_path / "voc"
    for folder, value in (("SegmentationClass", 1), ("SegmentationClassAug", 2)):
        (root / folder).mkdir(parents=True)
        Image.fromarray(np.full((2, 2), value, np.uint8)).save(root / folder / "a.png")
    (root / "JPEGImages").mkdir()
    Image.new("RGB", (2, 2)).save(root / "JPEGImages" / "a.jpg")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split in ("train", "train_aug", "trainval"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("a\n")
    record = convert_dataset(root, tmp_path / "out")
    assert (record["images"], record["computed"]) == (1, 2)
    for split, value in (("train", 1), ("train_aug", 2), ("trainval", 1)):
        assert open_dataset(tmp_path / "out", split)[0].mask.tolist() == [[value] * 2] * 2


@pytest.mark.parametrize(
    ("name", "written"),
    [("a/b c", "a_b_c"), ("frame.0007", "frame.0007"), ("photo.jpg", "photo_jpg"), ("x", "x")],
)
def test_names_fit_into_vocs_lists(name: str, written: str) -> None:
    assert str(devkit_name(name)) == written


def test_images_within_a_table_become_png_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root, out = tmp_path / "rows", tmp_path / "out"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    columns = {
        "image": [Image.fromarray(image) for image in pixels],
        "mask": [Image.fromarray((image[..., 0] % 2).astype(np.uint8)) for image in pixels],
    }
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(root))
    (root / "dataset.yaml").write_text("names: [x, y]\n")
    assert convert_dataset(root, out)["computed"] == 3
    before, after = open_dataset(root, "all"), open_dataset(out, "all")
    assert [one.tolist() for one in before[2][:2]] == [one.tolist() for one in after[2][:2]]
    assert convert_dataset(root, out)["computed"] == 0


def test_a_refusal_shows_the_first_difference_and_no_more() -> None:
    names = [f"class {number}" for number in range(200)]
    before, now = {"names": names, "void": 255}, {"names": [*names[:7], "other", *names[8:]], "void": 255}
    assert first_difference("classes", before, now) == "classes.names[7] class 7, not other"
    assert first_difference("form", {"a": 1}, {"a": 1, "b": 2}) == "form.b None, not 2"
    text = first_difference("names", names, names[1:])
    assert text.startswith("names ['class 0', 'class 1'")
    assert len(text) < 200
