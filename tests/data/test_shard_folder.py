"""Tar files that are written from a folder or from data sets of `datasets`, in several calls."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tar_shards import write_tar
from webdataset.tariterators import group_by_keys, tar_file_expander

from segdistill import cli
from segdistill.data import image_source
from segdistill.data.datasets import open_unlabelled
from segdistill.data.formats import tar as reader
from segdistill.data.image_source import StreamSource
from segdistill.data.labels import VOC
from segdistill.data.samples import Samples
from segdistill.inspecting import shard_images

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.unit
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    for seed in range(7)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's caches, which tests leave alone."""
    monkeypatch.setattr(reader, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of seven images, of several formats, in two folders."""
    for number, picture in enumerate(PICTURES):
        folder = tmp_path / "photos" / ("a" if number < 4 else "b.c")
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.v1.{('jpg', 'png', 'webp')[number % 3]}")
    return tmp_path / "photos"


def table() -> Any:
    features = datasets.Features({"image": datasets.Image(), "note": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": PICTURES, "note": ["x"] * 7}, features=features)


def ids(samples: Samples) -> list[str]:
    return [samples.files(index).id for index in range(len(samples))]


def images(samples: Samples) -> list[Any]:
    return [samples[index].image.tolist() for index in range(len(samples))]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_a_folder_becomes_tar_files_that_read_like_it(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    record = shard_images(photos, out, each=3)
    assert record == {"out": str(out), "shards": 3, "images": 7, "computed": 7, "problems": 0}
    assert list(contents(out)) == ["000000.tar", "000001.tar", "000002.tar"]
    written = open_unlabelled(out, VOC)
    assert images(written) == images(open_unlabelled(photos, VOC))
    assert ids(written)[2:5] == ["000000/a/2_v1", "000001/a/3_v1", "000001/b.c/4_v1"]
    again = shard_images(photos, out, each=3)
    assert (again["images"], again["computed"]) == (7, 0)


def test_webdataset_reads_what_is_written(photos: Path, tmp_path: Path) -> None:
    shard_images(photos, tmp_path / "shards", each=9)
    with (tmp_path / "shards" / "000000.tar").open("rb") as file:
        found = list(group_by_keys(tar_file_expander([{"url": "000000.tar", "stream": file}])))
    assert [sample["__key__"] for sample in found][3:] == ["a/3_v1", "b.c/4_v1", "b.c/5_v1", "b.c/6_v1"]
    assert found[1]["png"] == (photos / "a" / "1.v1.png").read_bytes()


@pytest.mark.parametrize("stopped", [0, 2, 3, 5])
def test_a_call_that_was_stopped_is_continued_to_the_same_bytes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    shard_images(photos, tmp_path / "whole", each=2)
    read = image_source.FolderSource.read

    def until(source: image_source.FolderSource, first: int) -> Iterator[Any]:
        for number, item in enumerate(read(source, first)):
            if number == stopped:
                raise KeyboardInterrupt
            yield item

    out = tmp_path / "halved"
    with monkeypatch.context() as patch:
        patch.setattr(image_source.FolderSource, "read", until)
        with pytest.raises(KeyboardInterrupt):
            shard_images(photos, out, each=2)
    assert len(contents(out)) == stopped // 2
    assert shard_images(photos, out, each=2)["computed"] == 7 - stopped // 2 * 2
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.glob(".*.tmp"))


def test_bad_files_are_named_and_left_out(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "a" / "1.v1.png").write_bytes(b"no image")
    PICTURES[0].save(photos / "a" / "2.v1.webp", "GIF")
    for _ in range(2):  # also where nothing is left to do
        assert (
            cli.main(["data", "shard", str(photos), "--out", str(tmp_path / "out"), "--shard_images", "1"])
            == 1
        )
    captured = capsys.readouterr()
    assert "Left out: a/1.v1: " in captured.err
    assert "2.v1.webp is a GIF file, but tar files hold JPEG," in captured.err
    assert json.loads(captured.out.strip().splitlines()[-1])["problems"] == 2
    assert ids(open_unlabelled(tmp_path / "out", VOC))[:2] == ["000000/a/0_v1", "000003/a/3_v1"]


def test_an_image_that_cannot_be_decoded_wholly_is_left_out(photos: Path, tmp_path: Path) -> None:
    for name, cut in (("a/0.v1.jpg", 40), ("a/1.v1.png", 40)):
        content = (photos / name).read_bytes()
        (photos / name).write_bytes(content[:-cut])
    read, out = open_unlabelled(photos, VOC), tmp_path / "out"
    for index in (0, 1):  # their headers are whole
        with pytest.raises(ValueError, match="cannot be decoded"):
            read[index]
    record = shard_images(photos, out)
    assert (record["images"], record["problems"]) == (5, 2)
    assert len(images(open_unlabelled(out, VOC))) == 5


def test_a_link_to_a_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    PICTURES[0].save(tmp_path / "elsewhere" / "x.png")
    (photos / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(
        ValueError, match=r"photos/more is a link to a folder, whose images would be left out"
    ):
        shard_images(photos, tmp_path / "out")


def test_two_names_of_one_key_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.b.png", "a_b.png", "a_b.jpg"):
        PICTURES[0].save(tmp_path / "photos" / name)
    shard_images(tmp_path / "photos", tmp_path / "out")
    assert ids(open_unlabelled(tmp_path / "out", VOC)) == ["000000/a_b", "000000/a_b-2", "000000/a_b-3"]


# Data sets of Hugging Face


def save_one(root: Path) -> None:
    table().save_to_disk(str(root))


def save_dict(root: Path) -> None:
    datasets.DatasetDict({"test": table().select([0]), "train": table()}).save_to_disk(str(root))


def save_parquet(root: Path) -> None:
    (root / "data").mkdir(parents=True)
    table().to_parquet(str(root / "data" / "train-00000-of-00001.parquet"))


def save_imagefolder(root: Path) -> None:
    (root / "train").mkdir(parents=True)
    for number, picture in enumerate(PICTURES):
        picture.save(root / "train" / f"{number}.png")
    lines = [json.dumps({"file_name": f"{number}.png"}) for number in range(7)]
    (root / "train" / "metadata.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("save", [save_one, save_dict, save_parquet, save_imagefolder])
def test_streams_become_tar_files_in_several_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any
) -> None:
    save(tmp_path / "set")
    read, out = StreamSource.read, tmp_path / "shards"

    def until(source: StreamSource, first: int) -> Iterator[Any]:
        for number, item in enumerate(read(source, first)):
            if number == 5:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(StreamSource, "read", until)
        with pytest.raises(KeyboardInterrupt):
            shard_images(tmp_path / "set", out, each=2)
    assert shard_images(tmp_path / "set", out, each=2)["computed"] == 3
    written = open_unlabelled(out, VOC)
    assert ids(written) == [f"00000{n // 2}/{n:09d}" for n in range(7)]
    assert images(written) == [np.asarray(picture).transpose(2, 0, 1).tolist() for picture in PICTURES]


def test_a_split_may_be_named(tmp_path: Path) -> None:
    save_dict(tmp_path / "set")
    assert shard_images(tmp_path / "set", tmp_path / "out", split="test")["images"] == 1
    with pytest.raises(ValueError, match=r"has no split 'val' among test, train"):
        shard_images(tmp_path / "set", tmp_path / "other", split="val")
    with pytest.raises(
        ValueError, match=r"no column of images 'note' in split 'train'; such columns are image"
    ):
        shard_images(tmp_path / "set", tmp_path / "other", column="note")


@pytest.mark.parametrize("save", [save_parquet, save_imagefolder])
@pytest.mark.parametrize("place", ["train/more", "more", "."])
def test_images_that_the_tables_do_not_name_are_refused(tmp_path: Path, save: Any, place: str) -> None:
    root = tmp_path / "set"
    save(root)
    (root / place).mkdir(parents=True, exist_ok=True)
    PICTURES[0].save(root / place / "unlisted.png")
    with pytest.raises(ValueError, match=r"leaves out 1 image files .* such as .*unlisted\.png: move them"):
        shard_images(root, tmp_path / "out")


@pytest.mark.parametrize("save", [save_one, save_parquet, save_imagefolder])
def test_a_table_that_has_changed_is_not_continued(tmp_path: Path, save: Any) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    save(root)
    shard_images(root, out, each=3)
    assert shard_images(root, out, each=3)["computed"] == 0
    changed = next(
        path for path in sorted(root.rglob("*")) if path.suffix in {".arrow", ".parquet", ".jsonl"}
    )
    os.utime(changed, ns=(0, 10**18))
    with pytest.raises(ValueError, match=r"were made with files \w+, not \w+: name another folder"):
        shard_images(root, out, each=3)


def test_an_empty_cell_is_left_out(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": [None, PICTURES[1]]}, features=features).save_to_disk(
        str(tmp_path / "set")
    )
    record = shard_images(tmp_path / "set", tmp_path / "out")
    assert (record["images"], record["problems"]) == (1, 1)


def test_a_stream_that_breaks_off_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_imagefolder(tmp_path / "set")
    (tmp_path / "set" / "train" / "4.png").unlink()
    monkeypatch.setattr(image_source, "open_streams", lambda *_: {"train": Broken()})
    with pytest.raises(
        ValueError, match=r"cannot be read any further \(the line is dead\): start again, which"
    ):
        shard_images(tmp_path / "set", tmp_path / "out")


class Broken:
    """A stream of one image."""

    features = None

    def select_columns(self, columns: list[str]) -> "Broken":
        return self

    def cast_column(self, column: str, kind: Any) -> "Broken":
        return self

    def skip(self, count: int) -> Iterator[Any]:
        yield {"image": {"bytes": b"", "path": None}}
        raise OSError("the line is dead\nor so")


def test_a_repository_is_read_at_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is not reached from here: what is asked of it is what counts, and what becomes of it."""
    save_parquet(tmp_path / "set")
    asked, load = [], datasets.load_dataset

    def load_dataset(name: str, *args: Any, **options: Any) -> Any:
        asked.append((name, *args, options.pop("revision"), options))
        return load(str(tmp_path / "set"), **options)

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            return type("Info", (), {"sha": f"commit of {name} at {revision}"})

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for _ in range(2):
        record = shard_images("hf:org/photos@v2", tmp_path / "out", subset="large", each=4)
        assert (record["images"], record["shards"]) == (7, 2)
    assert asked[0] == ("org/photos", "large", "commit of org/photos at v2", {"streaming": True})
    settings = json.loads((tmp_path / "out" / "shards.json").read_text())["settings"]
    assert (settings["source"], settings["revision"]) == ("hf:org/photos@v2", asked[0][2])
    monkeypatch.setattr(Api, "dataset_info", lambda *_, **__: type("Info", (), {"sha": "a later one"}))
    with pytest.raises(ValueError, match=r"made with revision commit of org/photos at v2, not a later one"):
        shard_images("hf:org/photos@v2", tmp_path / "out", subset="large", each=4)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(
        ValueError, match=r"hf:org/photos cannot be read from .* \(Name or service not known\): ch"
    ):
        shard_images("hf:org/photos", tmp_path / "out")


# What is refused


def test_other_settings_need_another_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard_images(photos, out, each=3)
    with pytest.raises(ValueError, match=r"made with shard_images 3, not 4: name another folder with out"):
        shard_images(photos, out, each=4)
    PICTURES[0].save(photos / "new.png")
    with pytest.raises(ValueError, match=r"made with names \w+, not \w+"):
        shard_images(photos, out, each=3)
    (out / "shards.json").write_text("[]")
    with pytest.raises(ValueError, match=r"shards.json is damaged .*: delete"):
        shard_images(photos, out, each=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["photos", "--out", "photos"], "photos holds a but no shards.json: name another folder with --out"),
        (["nowhere", "--out", "new"], "nowhere is neither a folder nor hf:ORG/NAME"),
        (
            ["photos", "--out", "new", "--split", "train"],
            "photos is a folder of image files, which has no split",
        ),
        (["photos", "--out", "new", "--shard_images", "0"], "shard_images is 0, but must be 1 or more"),
        (["empty", "--out", "new"], "empty holds no images"),
    ],
)
def test_mistakes_are_one_line(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    assert cli.main(["data", "shard", *options]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(photos.parent.glob("new/*.tar"))


# Other commands


def test_data_check_reads_tar_files(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shard_images(photos, tmp_path / "shards", each=3)
    write_tar(tmp_path / "shards" / "x.tar", {"a.jpg": b"no image"})
    assert cli.main(["data", "check", str(tmp_path / "shards")]) == 1
    captured = capsys.readouterr()
    assert "x/a: " in captured.err
    found = json.loads(captured.out.strip().splitlines()[-1])
    assert (found["tars"], found["images"], found["problems"]) == (4, 8, 1)
    assert cli.main(["data", "check", str(tmp_path / "shards" / "00000{0..2}.tar")]) == 0
    assert cli.main(["data", "check", str(tmp_path / "shards" / "no*.tar")]) == 1
    assert "does not exist: name .tar files" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--split", "train"], ["--layout", "x.yaml"]])
def test_data_check_of_tar_files_has_no_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str]
) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"no image"})
    assert cli.main(["data", "check", str(path), *options]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert f"{path} stands for .tar files of images without masks" in message
    assert "leave --split out" in message or "leave --data.layout out" in message


def test_data_check_warns_of_dark_images_in_tar_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    dark = io.BytesIO()
    Image.fromarray(np.array([[0, 4095]], dtype=np.uint16)).save(dark, "PNG")
    path = write_tar(tmp_path / "x.tar", {"a.png": dark.getvalue()})
    assert cli.main(["data", "check", str(path)]) == 0
    captured = capsys.readouterr()
    assert "the brightest of 1 images with 16 bits per channel is 4,095" in " ".join(captured.err.split())
    assert json.loads(captured.out.strip().splitlines()[-1])["warnings"] == 1


@pytest.mark.parametrize("verb", ["predict", "label"])
def test_tar_files_are_not_predicted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, verb: str
) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"no image"})
    assert cli.main([verb, str(run), str(path), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    assert f"{path} is a tar file: unpack it into a folder" in " ".join(capsys.readouterr().err.split())
