"""VOC is unpacked from a checked archive; torchvision's downloader runs, on a small archive of our own."""

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import voc

from segdistill.data.datasets import open_dataset
from segdistill.data.download import download_voc, write_augmented_list

pytestmark = pytest.mark.unit
ARCHIVE = "VOCtrainval_11-May-2012.tar"


def write_devkit(devkit: Path) -> None:
    """A devkit of two images; SBD's masks are there for both and for two more."""
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (devkit / folder).mkdir(parents=True)
    for name in ("d", "c", "b", "a"):
        Image.new("RGB", (4, 4)).save(devkit / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(np.full((4, 4), 15, np.uint8)).save(devkit / "SegmentationClassAug" / f"{name}.png")
    for split, name in (("train", "a"), ("val", "b")):
        Image.fromarray(np.full((4, 4), 8, np.uint8)).save(devkit / "SegmentationClass" / f"{name}.png")
        (devkit / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(f"{name}\n")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Puts the archive into a folder; torchvision knows its checksum, and an address where nothing is."""
    write_devkit(tmp_path / "made" / "VOCdevkit" / "VOC2012")
    archive = tmp_path / ARCHIVE
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "made" / "VOCdevkit", "VOCdevkit")
    source = {
        "url": (tmp_path / "nowhere" / ARCHIVE).as_uri(),
        "filename": ARCHIVE,
        "md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "base_dir": "VOCdevkit/VOC2012",
    }
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", source)

    def bring(root: Path) -> None:
        root.mkdir()
        (root / ARCHIVE).write_bytes(archive.read_bytes())

    return bring


def test_an_archive_that_was_brought_is_unpacked(offline: Callable[[Path], None], tmp_path: Path) -> None:
    root = tmp_path / "voc"
    offline(root)
    devkit = download_voc(root)
    assert devkit == root / "VOCdevkit" / "VOC2012"
    assert list(open_dataset(root, "train").ids) == ["a"]
    assert (devkit / "ImageSets/Segmentation/train_aug.txt").read_text() == "a\nc\nd\n"
    assert open_dataset(root, "train")[0].mask.unique().tolist() == [8]
    assert open_dataset(root, "train_aug")[0].mask.unique().tolist() == [15]


def test_without_a_network_it_says_which_file_to_bring_and_where(
    offline: Callable[[Path], None], tmp_path: Path
) -> None:
    root = tmp_path / "new" / "voc"
    with pytest.raises(ValueError, match=rf"could not be downloaded.*{ARCHIVE} and put it into .*new/voc"):
        download_voc(root)


def test_an_archive_of_another_checksum_is_not_unpacked(
    offline: Callable[[Path], None], tmp_path: Path
) -> None:
    root = tmp_path / "voc"
    offline(root)
    with (root / ARCHIVE).open("ab") as archive:
        archive.write(b"!")
    with pytest.raises(ValueError, match="could not be downloaded"):
        download_voc(root)
    assert not (root / "VOCdevkit").exists()


def test_without_sbds_masks_no_list_is_written(tmp_path: Path) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n")
    assert write_augmented_list(tmp_path) is None
    assert [path.name for path in lists.iterdir()] == ["val.txt"]
