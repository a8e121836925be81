"""Descriptions of data sets: what they may hold, and that a layout is found without PyTorch."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segdistill.config.train import DataConfig
from segdistill.data.formats.folders import FolderLayout
from segdistill.data.formats.table import LAYOUTS, open_layout, open_training_layout
from segdistill.data.formats.voc import VocLayout

pytestmark = pytest.mark.unit
FOLDERS = "names: [x, y]\nimages: '{split}/images'\nmasks: '{split}/masks'\n"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("ignore_index: 0", "; did you mean void?"),
        ("pallete: [[0, 0, 0], [1, 1, 1]]", "; did you mean palette?"),
        ("mask_names: x", "; did you mean mask_name?"),
        ("zzz: 1", ""),
        ("3: 1", ""),
    ],
)
def test_an_unknown_key_is_refused_with_what_was_meant(tmp_path: Path, line: str, hint: str) -> None:
    (tmp_path / "dataset.yaml").write_text(FOLDERS + line)
    allowed = (
        "keys are bits, classes, group, ids, images, mask_format, mask_name, masks, names, palette, val, void"
    )
    text = f"dataset.yaml has the unknown key '{line.partition(':')[0]}', but {allowed}{hint}"
    with pytest.raises(ValueError, match=rf"{re.escape(text)}$"):
        open_layout(tmp_path)


def test_a_devkit_takes_no_folders(tmp_path: Path) -> None:
    """They would be ignored: a devkit has its own."""
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "dataset.yaml").write_text(FOLDERS)
    with pytest.raises(
        ValueError,
        match=r"unknown key 'images', but keys are bits, classes, group, ids, mask_format, names, pal",
    ):
        open_layout(tmp_path)


def test_a_layout_is_what_the_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(FOLDERS)
    found = open_layout(tmp_path)
    assert isinstance(found, FolderLayout)
    assert not found.one_split
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "dataset.yaml").unlink()
    assert isinstance(open_layout(tmp_path), VocLayout)


def test_images_without_a_split_are_told_apart_before_a_training(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("names: [x, y]\nimages: images\nmasks: '{split}'\n")
    config = DataConfig(root=str(tmp_path))
    with pytest.raises(ValueError, match="training and validation would read the same ones"):
        open_training_layout(config)
    assert open_training_layout(DataConfig(root=str(tmp_path), val_share=0.1)).splits() == ["all"]


def test_the_docs_list_each_layout_and_its_signs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "own-data.md").read_text()
    for layout in LAYOUTS:
        shown = (
            layout.title if layout.title == "labelme's JSON" else layout.title[0].upper() + layout.title[1:]
        )
        assert f"| [{shown}](#" in page, layout.title
        assert layout.signs in page, layout.signs


def test_pytorch_is_not_loaded_to_find_a_layout() -> None:
    code = "import sys, segdistill.data.formats.table; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_fixture_writes_every_layout(every_layout: Callable[..., Path]) -> None:
    root = every_layout(["a"])
    assert root.name.startswith(type(open_layout(root)).__name__.removesuffix("Layout").lower())
