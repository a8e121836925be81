"""Images in tar files, written by webdataset's own writer where it can write them."""

import gzip
import io
import os
import pickle
import shutil
import tarfile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tar_shards import write_shards, write_tar

from segdistill.config.train import DataConfig
from segdistill.data.cache.images import sample_key
from segdistill.data.cache.teacher import image_key
from segdistill.data.check import check
from segdistill.data.datasets import open_training, open_unlabelled
from segdistill.data.formats import tar as reader
from segdistill.data.formats.tar import TarIndex, expand_braces, find_tars, index_folder, read_entries
from segdistill.data.labels import VOC
from segdistill.data.samples import Samples

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, which tests leave alone."""
    monkeypatch.setattr(reader, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache"


def encoded(seed: int, form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def numbered(count: int) -> dict[str, bytes]:
    return {f"{number:04d}": encoded(number) for number in range(count)}


def ids(samples: Samples) -> list[str]:
    return [samples.files(index).id for index in range(len(samples))]


def test_shards_hold_what_a_folder_does(tmp_path: Path) -> None:
    shards = open_unlabelled(write_shards(tmp_path / "shards", numbered(7), each=3), VOC)
    (tmp_path / "photos").mkdir()
    for number in range(7):
        (tmp_path / "photos" / f"{number:04d}.jpg").write_bytes(encoded(number))
    folder = open_unlabelled(tmp_path / "photos", VOC)
    assert (len(shards), shards.labelled) == (7, 0)
    assert ids(shards) == [f"train-{n // 3:03d}/{n:04d}" for n in range(7)]
    for index in range(7):
        assert shards[index].image.equal(folder[index].image)
        assert shards[index].mask.equal(folder[index].mask)
        assert shards[index].native == folder[index].native
    assert list(check(shards)) == [None] * 7


def test_all_ways_to_name_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "shards", numbered(7), each=2)
    found = sorted(folder.iterdir())
    assert [path.name for path in found] == [f"train-{number:03d}.tar" for number in range(4)]
    assert find_tars(folder) == found
    assert find_tars(found[1]) == [found[1]]
    assert find_tars(f"{folder}/train-{{001..003}}.tar") == found[1:]
    assert find_tars(str(folder / "train-{003,000}.tar")) == [found[3], found[0]]
    assert find_tars(str(folder / "*-00[01].tar")) == found[:2]
    assert find_tars(str(tmp_path / "**" / "*{0,1}.tar")) == found[:2]
    monkeypatch.chdir(tmp_path)
    assert find_tars("shards/train-{000..000}.tar") == [Path("shards/train-000.tar")]


def test_braces_are_those_of_a_shell() -> None:
    assert list(expand_braces("{a,b}-{08..10}")) == ["a-08", "a-09", "a-10", "b-08", "b-09", "b-10"]
    assert list(expand_braces("{8..10}.tar")) == ["8.tar", "9.tar", "10.tar"]
    assert list(expand_braces("plain.tar")) == ["plain.tar"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.tar", "no.tar is not a folder, nor a .tar file"),
        ("train-{000..009}.tar", "train-002.tar does not exist: name .tar files that do"),
        ("val-*.tar", r"val-\*.tar does not exist"),
        ("train-{9..0}.tar", r"\{9..0\} must go upwards"),
        ("train-{0..9999999}.tar", "to 1,000,000 files at most"),
        ("train-{000}.tar", r"braces hold \{000..099\} or \{a,b\}, not \{000\}"),
        ("note.txt", r"note.txt is a file, but images without masks are in a folder or in .tar files"),
        ("hf:org/photos", "`segdistill data shard hf:org/photos --out shards` writes them"),
    ],
)
def test_names_of_nothing_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    write_shards(tmp_path / "set", numbered(4), each=2)
    monkeypatch.chdir(tmp_path / "set")
    Path("note.txt").write_text("x")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_unlabelled(name, VOC)


def test_a_folder_of_images_stays_one_where_a_tar_lies_in_it(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", numbered(2), each=2)
    (folder / "one.jpg").write_bytes(encoded(9))
    assert ids(open_unlabelled(folder, VOC)) == ["one"]


def test_shards_of_one_name_in_two_folders_have_ids_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards(tmp_path / "sets" / name, numbered(1), each=1)
    samples = open_unlabelled(str(tmp_path / "sets" / "{a,b}" / "*.tar"), VOC)
    assert ids(samples) == ["a/train-000/0000", "b/train-000/0000"]


def test_shards_of_one_name_in_a_list_have_ids_of_their_own(tmp_path: Path, shapes: Path) -> None:
    folders = [tmp_path / name for name in ("a/one", "b/one", "c")]
    for folder in folders:
        write_shards(folder, numbered(1), each=1)
    config = DataConfig(root=str(shapes), unlabelled=[*map(str, folders), f"{tmp_path}/c/*.tar"])
    found = ids(open_training(config))[-4:]
    assert found == ["a/one/train-000/0000", "b/one/train-000/0000", "c/train-000/0000", "c/train-000/0000"]
    config = DataConfig(root=str(shapes), unlabelled=[str(folders[2])])
    assert ids(open_training(config))[-1] == "train-000/0000"


def test_two_suffixes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("x.tar", "x.TAR"):
        write_tar(tmp_path / name, {"a.jpg": encoded(0)})
    if len(list(tmp_path.glob("x.*"))) == 2:  # the file system tells them apart
        assert len(set(ids(open_unlabelled(tmp_path, VOC)))) == 2


def test_a_pattern_takes_the_tar_files_alone(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", numbered(2), each=1)
    found = sorted(folder.iterdir())
    (folder / "shards.json").write_text("{}")
    (folder / "more.tar").mkdir()
    assert find_tars(f"{folder}/*") == found
    for path in found:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"\* stands for 2 files or folders, but for no \.tar file"):
        open_unlabelled(f"{folder}/*", VOC)


def test_tar_files_in_nested_folders_are_not_left_out(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", numbered(1), each=1)
    assert len(find_tars(folder)) == 1
    write_shards(folder / "more", numbered(1), each=1)
    with pytest.raises(ValueError, match=r"set holds \.tar files, and so do folders in it, .* pattern"):
        find_tars(folder)
    assert len(find_tars(f"{folder}/**/*.tar")) == 2


def test_the_suffix_says_which_files_are_images(tmp_path: Path) -> None:
    members = {
        "./a/1.JPG": encoded(1),
        "a/1.json": b"{}",
        "a/1.seg.png": encoded(2, "PNG"),  # a mask, as webdataset names it
        "a/._1.jpg": b"what macOS adds",
        "b.v2/2.png": encoded(3, "PNG"),
        "long/" + "é" * 200 + ".webp": encoded(4, "WEBP"),  # in an extended header
        "3.cls": b"7",
    }
    samples = open_unlabelled(write_tar(tmp_path / "x.tar", members), VOC)
    assert ids(samples) == ["x/a/1", "x/b.v2/2", "x/long/" + "é" * 200]
    assert np.array_equal(samples[1].image.permute(1, 2, 0), Image.open(io.BytesIO(encoded(3, "PNG"))))
    assert str(samples.files(0).image) == f"{tmp_path / 'x.tar'} (./a/1.JPG)"


def test_the_order_is_the_files_own(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {name: encoded(0) for name in ("b.jpg", "c.jpg", "a.jpg")})
    assert ids(open_unlabelled(path, VOC)) == ["x/b", "x/c", "x/a"]


# What is wrong with a file


def cut(path: Path, left: int) -> Path:
    path.write_bytes(path.read_bytes()[:left])
    return path


@pytest.mark.parametrize("left", [0, 100, 512, 600, 1024, 1500, 2048, 3072, 3073])
def test_a_shard_cut_short_is_refused_wherever_it_was_cut(tmp_path: Path, left: int) -> None:
    """The tar has three files of less than 512 bytes, each behind its header: 3,072 bytes, and its end."""
    path = write_tar(
        tmp_path / "x.tar", {"a.png": encoded(0, "PNG"), "b.png": encoded(1, "PNG"), "c.txt": b"c"}
    )
    cut(path, left)
    with pytest.raises(ValueError, match=r"x.tar is cut short.*(copy it again from where it is whole)"):
        open_unlabelled(path, VOC)


def test_a_shard_without_its_last_padding_is_whole(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": encoded(0, "PNG")})
    assert len(open_unlabelled(cut(path, 512 * 3), VOC)) == 1


def test_no_bytes_bring_the_reader_to_anything_but_one_line(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {f"{name}.png": encoded(0, "PNG") for name in ("a", "é" * 120, "c")})
    whole, rng, lines = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data) - 10240 + 2048, 4):
            data[place] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        try:
            read_entries(path)
        except (ValueError, FileNotFoundError) as error:
            lines.append(str(error))
    assert len(lines) > 50
    assert not [line for line in lines if "\n" in line]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "x.tar holds no images: .* but has no files"),
        ({"a.txt": b"a"}, "x.tar holds no images: .* such as 0001.jpg, but has 'a.txt'"),
        ({"frame.1.jpg": b"a"}, "but has 'frame.1.jpg'"),
        (
            {"a.jpg": b"1", "b.jpg": b"2", "a.png": b"3"},
            r"x.tar has two images of the sample 'a' \(a.jpg and a.png\): write it again",
        ),
    ],
)
def test_a_shard_of_other_things_is_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_unlabelled(write_tar(tmp_path / "x.tar", members), VOC)


def test_an_image_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    with pytest.raises(ValueError, match=r"two images of the sample 'a' \(a.jpg and a.jpg\)"):
        open_unlabelled(path, VOC)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar", "x.tgz"])
def test_compressed_shards_are_refused_with_the_command(tmp_path: Path, name: str) -> None:
    whole = write_tar(tmp_path / "whole.tar", {"a.jpg": encoded(0)})
    path = tmp_path / "set" / name
    path.parent.mkdir()
    path.write_bytes(gzip.compress(whole.read_bytes()))
    for source in (path, path.parent):
        with pytest.raises(ValueError, match=rf"{name} is compressed, .*decompress it, `gzip -d .*{name}`"):
            open_unlabelled(source, VOC)


def test_joined_tar_files_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": encoded(0)})
    path.write_bytes(path.read_bytes() + os.urandom(2**20))
    with pytest.raises(ValueError, match="after its end, as where tar files were joined: keep them apart"):
        open_unlabelled(path, VOC)


def test_a_member_that_is_no_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": encoded(0), "b.jpg": b"no", "c.jpg": encoded(1)[:200]})
    good, other, short = check(open_unlabelled(path, VOC))
    assert good is None
    assert other is not None
    assert short is not None
    assert other.reason.startswith(f"{path} (b.jpg) is not an image that can be read")
    assert short.reason.startswith(f"{path} (c.jpg) cannot be decoded")
    assert other.reason.endswith(f"write {path} again without it")
    assert short.id == "x/c"


# The index


def test_a_second_start_reads_no_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "shards", numbered(4), each=2)
    first = ids(open_unlabelled(folder, VOC))
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("headers were read again"))
    assert ids(open_unlabelled(folder, VOC)) == first
    assert TarIndex(folder / "train-000.tar").entries is None  # they stay in the file


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "text", "other"])
def test_a_damaged_index_is_made_again(tmp_path: Path, damage: str) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": encoded(0), "b.jpg": encoded(1)})
    index = TarIndex(path)
    whole = index.file.read_bytes()

    def spoil() -> None:
        if damage == "other":
            np.save(index.file, np.arange(3))
        else:
            spoilt = {"empty": b"", "cut": whole[:-9], "longer": whole + b"x", "text": b"none"}
            index.file.write_bytes(spoilt[damage])

    spoil()
    assert ids(open_unlabelled(path, VOC)) == ["x/a", "x/b"]
    assert index.file.read_bytes() == whole
    if damage in {"empty", "cut"}:  # also while it is in use
        spoil()
        assert [index.entry(row).name for row in range(2)] == [b"a.jpg", b"b.jpg"]
        assert index.file.read_bytes() == whole


def test_an_index_that_vanishes_while_it_is_used_is_made_again(tmp_path: Path, cache: Path) -> None:
    samples = open_unlabelled(write_tar(tmp_path / "x.tar", {"a.jpg": encoded(0), "b.jpg": encoded(1)}), VOC)
    shutil.rmtree(cache)
    assert ids(samples) == ["x/a", "x/b"]
    shutil.rmtree(cache)
    cache.write_text("a file where the folder would be")
    assert ids(samples) == ["x/a", "x/b"]


def read_with_few_files(folder: Path, answer: Any) -> None:
    """In a process of its own: the ids of all images, while few files may be open."""
    import resource  # which Windows lacks

    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    for _ in range(2):
        samples = open_unlabelled(folder, VOC)
        answer.send([samples[index].id for index in range(len(samples))])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_there_may_be_more_tar_files_than_files_that_may_be_open(tmp_path: Path) -> None:
    for number in range(200):
        write_tar(tmp_path / "shards" / f"{number:03d}.tar", {"a.jpg": encoded(number)})
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=read_with_few_files, args=(tmp_path / "shards", sender))
    process.start()
    process.join()
    sender.close()
    expected = [f"{number:03d}/a" for number in range(200)]
    assert [receiver.recv(), receiver.recv()] == [expected, expected]
    assert process.exitcode == 0


def test_a_changed_tar_gets_another_index_and_the_old_one_goes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": encoded(0)})
    other = write_tar(tmp_path / "y.tar", {"z.jpg": encoded(0)})
    assert [ids(open_unlabelled(one, VOC)) for one in (path, other)] == [["x/a"], ["y/z"]]
    before = samples = open_unlabelled(path, VOC)
    write_tar(path, {"b.jpg": encoded(1)})
    os.utime(path, ns=(0, 10**18))  # the same length, another time
    assert ids(open_unlabelled(path, VOC)) == ["x/b"]
    assert len(list(index_folder().glob("*.npy"))) == 2
    with pytest.raises(FileNotFoundError, match=r"x\.tar has changed since it was opened: start again"):
        before[0]
    with pytest.raises(FileNotFoundError, match="has changed since it was opened"):
        samples.files(0)  # an open one does not change under its reader


def test_without_a_place_for_the_index_it_is_made_each_time(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": encoded(0)})
    cache.write_text("a file where the folder would be")
    samples = open_unlabelled(path, VOC)
    assert pickle.loads(pickle.dumps(samples))[0].image.equal(samples[0].image)


def test_what_travels_to_a_worker_does_not_grow_with_the_images(tmp_path: Path) -> None:
    lengths = []
    for count in (2, 400):
        path = write_tar(tmp_path / f"{count:03d}.tar", {f"{n}.jpg": encoded(0) for n in range(count)})
        samples = open_unlabelled(path, VOC)
        packed = pickle.dumps(samples)
        lengths.append(len(packed))
        assert pickle.loads(packed)[1].image.equal(samples[1].image)
    assert abs(lengths[0] - lengths[1]) < 20


def test_the_caches_know_an_image_by_its_own_length_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": encoded(0), "b.jpg": encoded(1)})
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jpg").write_bytes(encoded(0))
    samples, folder = open_unlabelled(path, VOC), open_unlabelled(tmp_path / "x", VOC)
    assert image_key("a", samples.files(0).image) == image_key("a", folder.files(0).image)
    assert samples.files(0).image.stat().st_mtime_ns == path.stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    relative = open_unlabelled("x.tar", VOC)
    assert sample_key(relative, 0) == sample_key(samples, 0)
    assert len({sample_key(samples, index) for index in range(2)}) == 2
    shutil.copy(path, "y.tar")
    assert sample_key(open_unlabelled("y.tar", VOC), 0) != sample_key(samples, 0)
