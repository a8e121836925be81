"""Every command of docs/troubleshooting.md prints the message that stands below it."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_pages import PROJECT, tokens_of
from PIL import Image
from tar_shards import write_tar

from segdistill.cli import main
from segdistill.data.shapes import write_shapes

pytestmark = pytest.mark.unit
PAGE = PROJECT / "docs" / "troubleshooting.md"
NAMES = "names: [background, a, b, c, d, e, f, g, h, i, j]\n"
FOLDERS = "images: '{split}/images'\nmasks: '{split}/masks'\n"
CODE = """
import segdistill

def unnamed():
    return segdistill.build_model("lraspp_mobilenet_v3_large", 5)
"""


def cases() -> Iterator[tuple[str, str, str]]:
    """Heading, command and message of each error of the page."""
    heading, blocks = "", []
    tokens = tokens_of(PAGE)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            heading, blocks = inline.content, []
        elif token.type == "fence":
            blocks.append(token.content.strip())
            if len(blocks) == 2:
                yield heading, *blocks


CASES = {heading: (command, message) for heading, command, message in cases()}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in folders, with a description."""
    devkit = write_shapes(tmp_path_factory.mktemp("drawn"), train=12, val=4, size=48)
    root = tmp_path_factory.mktemp("folders") / "mydata"
    for split in ("train", "val"):
        for name in (devkit / f"ImageSets/Segmentation/{split}.txt").read_text().split():
            for source, target in (("JPEGImages", "images"), ("SegmentationClass", "masks")):
                (root / split / target).mkdir(parents=True, exist_ok=True)
                [file] = (devkit / source).glob(f"{name}.*")
                shutil.copy(file, root / split / target)
    (root / "dataset.yaml").write_text(NAMES + FOLDERS)
    return root


def first(kind: str) -> Path:
    return min(Path("mydata/train", kind).iterdir())


def colour_mask() -> None:
    Image.open(first("masks")).convert("RGB").save(first("masks"))


def unknown_index() -> None:
    mask = Image.open(first("masks"))
    mask.putpixel((0, 0), 77)
    mask.save(first("masks"))


def small_mask() -> None:
    Image.open(first("masks")).resize((24, 24), Image.Resampling.NEAREST).save(first("masks"))


def truncated_image() -> None:
    first("images").write_bytes(first("images").read_bytes()[:300])


def short_tar() -> None:
    files = {path.name: path.read_bytes() for path in Path("mydata/train/images").iterdir()}
    path = write_tar(Path("shards/train-000.tar"), files)
    path.write_bytes(path.read_bytes()[:3000])


def run_with_code() -> None:
    Path("runs/code").mkdir()
    Path("runs/code/config.yaml").write_text("teacher: {spec: 'mynet.py:unnamed'}\n")


def describe(text: str) -> Callable[[], object]:
    return lambda: Path("mydata/dataset.yaml").write_text(text)


SPOILT: dict[str, Callable[[], object]] = {
    "The layout is not recognised": lambda: Path("mydata/dataset.yaml").unlink(),
    "A key of dataset.yaml is unknown": describe(NAMES + FOLDERS + "ignore_index: 255\n"),
    "Training and validation would be the same images": describe(NAMES + FOLDERS.replace("{split}", "train")),
    "A mask is in colours": colour_mask,
    "A mask holds an unknown index": unknown_index,
    "Mask and image differ in size": small_mask,
    "A mask is missing": lambda: first("masks").unlink(),
    "An image cannot be decoded": truncated_image,
    "A tar file is cut short": short_tar,
    "A run that names code is resumed": run_with_code,
    "A key of the configuration is unknown": lambda: Path("bad.yaml").write_text(
        "optim: {learning_rate: 0.1}\n"
    ),
}
"""By heading, what went wrong before the command."""


@pytest.mark.parametrize("heading", CASES)
def test_the_message_is_the_programs(
    heading: str,
    good: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segdistill.models.spec._called", set())  # by another command of the page
    monkeypatch.setattr("segdistill.data.formats.tar.user_cache_path", lambda name: tmp_path / "cache" / name)
    shutil.copytree(good, "mydata")
    shutil.copytree(run, "runs/mine")
    Path("photos").mkdir()
    Path("mynet.py").write_text(CODE)
    SPOILT.get(heading, lambda: None)()
    command, message = CASES[heading]
    code = main(shlex.split(command)[1:])
    printed = " ".join(capsys.readouterr().err.split())
    pattern = ".*".join(map(re.escape, " ".join(message.split()).split("...")))
    assert re.search(pattern, printed), printed
    assert code == (
        0 if heading == "A class never occurs" else 2 if "segdistill train --help" in message else 1
    )


def test_the_page_has_twenty_errors_and_none_is_prepared_in_vain() -> None:
    assert len(CASES) >= 20
    assert set(SPOILT) <= set(CASES)
