"""Files from strangers: run no code, reach no other place, and take no more memory than is stated."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from memory import AddedMemory
from safetensors.torch import save_file

import segdistill
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.labels import read_yaml
from segdistill.engine.checkpoint import Checkpoints
from segdistill.files import JSON_BYTES, YAML_BYTES, read_json, read_plain_yaml
from segdistill.models.card import read_card, read_weights
from segdistill.models.state_files import read_state
from segdistill.models.trained import load_network

pytestmark = pytest.mark.unit
CARD = {
    "spec": "dsunet",
    "width": 0.05,
    "labels": {"names": ["ground", "road"]},
    "size": 32,
    "evaluate_size": None,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
}


class Attack:
    """Unpickled by the letter, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert 0 < len(text) < 2000
    return text


@pytest.mark.parametrize("form", ["archive", "pickle"])
def test_weights_run_no_code(tmp_path: Path, form: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / "weights.pth"
    if form == "archive":
        torch.save({"x": Attack(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"x": Attack(mark)}))
    with pytest.raises(ValueError, match="is not a state dict") as error:
        read_state(path)
    one_line(error)
    assert not mark.exists()


def test_a_checkpoint_with_a_right_checksum_runs_no_code(tmp_path: Path, capsys: Any) -> None:
    Checkpoints(tmp_path / "checkpoints").save(1, {"x": Attack(tmp_path / "mark")})
    assert Checkpoints(tmp_path / "checkpoints").load() is None
    assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()


def bomb(path: Path, size: int = 2**28) -> Path:
    """An archive of PyTorch whose one tensor unpacks to `size` zeros."""
    plain = io.BytesIO()
    torch.save({"x": torch.zeros(8, dtype=torch.uint8)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, bytes(size) if name.endswith("data/0") else source.read(name))
    assert path.stat().st_size < size / 500
    return path


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.pth")
    added = AddedMemory()
    with pytest.raises(ValueError, match="more than its own size") as error:
        read_state(path)
    one_line(error)
    assert added.peak() < 2**26


def test_a_saved_state_dict_is_no_bomb(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1000, 1000)}, tmp_path / "fine.pth")
    assert read_state(tmp_path / "fine.pth")["x"].sum() == 1e6


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(struct.pack("<Q", 2**40) + b"{}", id="a header of a terabyte"),
        pytest.param(struct.pack("<Q", 2**27) + b"{" + b" " * 100, id="a header longer than the file"),
        pytest.param(struct.pack("<Q", 2) + b"{}"[:1], id="cut"),
        pytest.param(
            (lambda h: struct.pack("<Q", len(h)) + h)(
                b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
            ),
            id="a tensor longer than the file",
        ),
        pytest.param(
            (lambda h: struct.pack("<Q", len(h)) + h + bytes(4))(
                b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'
            ),
            id="a tensor before the file",
        ),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_hostile_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole safetensors file") as error:
        read_weights(tmp_path / "x.safetensors")
    one_line(error)


def test_files_above_their_size_are_refused_unread(tmp_path: Path) -> None:
    for name, most, read in (("x.json", JSON_BYTES, read_json), ("x.yaml", YAML_BYTES, read_plain_yaml)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**36)  # 64 GB, none of it on the disk
        with pytest.raises(ValueError, match=rf"more than {most:,} bytes") as error:
            read(tmp_path / name)
        one_line(error)


def test_deep_nesting_and_aliases_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    (tmp_path / "x.yaml").write_text("[" * 10_000)
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (tmp_path / "laughs.yaml").write_text(laughs)
    for read, name in ((read_json, "x.json"), (read_plain_yaml, "x.yaml"), (read_plain_yaml, "laughs.yaml")):
        with pytest.raises(ValueError, match=r"nested too deeply|aliases") as error:
            read(tmp_path / name)
        one_line(error)
    with pytest.raises(ValueError, match="aliases"):
        load(TrainConfig, tmp_path / "laughs.yaml")


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"!!python/object/apply:os.mkdir [{tmp_path / 'mark'}]")
    with pytest.raises(ValueError, match="not valid YAML") as error:
        read_yaml(tmp_path / "x.yaml")
    one_line(error)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("width", 1e6, "width is"),
        ("width", float("nan"), "width is"),
        ("size", 2**40, "size and evaluate_size"),
        ("evaluate_size", 2**40, "size and evaluate_size"),
        ("std", [0, 1, 1], "std is"),
        ("mean", [1], "mean is"),
        ("labels", {"names": ["x"] * 100_000}, "2 to 254 classes"),
        ("labels", {"names": ["a", "b"], "palette": [[1e400, 0, 0], [0, 0, 0]]}, r"palette is \[\[inf"),
        ("spec", {"a": 1}, "spec is"),
    ],
)
def test_a_card_cannot_ask_for_the_impossible(tmp_path: Path, key: str, value: Any, reason: str) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD | {key: value}))
    with pytest.raises(ValueError, match=reason) as error:
        read_card(tmp_path)
    one_line(error)


def test_a_card_that_names_code_does_not_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\n\n\ndef network(num_classes): ...\n")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    for spec in (f"{evil}:network", f"../../../{evil}:network", "os:abort"):
        (tmp_path / "model.json").write_text(json.dumps(CARD | {"spec": spec}))
        with pytest.raises(ValueError, match="SEGDISTILL_TRUST=1") as error:
            load_network(str(tmp_path))
        one_line(error)
    (tmp_path / "config.yaml").write_text(f"teacher: {{spec: '{evil}:network'}}\n")
    with pytest.raises(ValueError, match="SEGDISTILL_TRUST=1"):
        segdistill.train(out=tmp_path, resume=True)
    assert not (tmp_path / "mark").exists()
    (tmp_path / "model.json").write_text(json.dumps(CARD | {"spec": f"{evil}:network", "width": 1.0}))
    monkeypatch.setenv("SEGDISTILL_TRUST", "1")
    with pytest.raises(ValueError, match="returned a NoneType"):
        load_network(str(tmp_path))
    assert (tmp_path / "mark").exists()


def test_a_list_of_a_devkit_reaches_no_other_folder(shapes: Path, tmp_path: Path) -> None:
    devkit = shapes / "VOCdevkit" / "VOC2012"
    known = (devkit / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    names = tmp_path / "mine.txt"
    names.write_text(f"../../../../etc/{known}\n/etc/passwd/../{known}\n")
    dataset = open_dataset(shapes, str(names))
    assert set(dataset.ids) == {known}
    assert {Path(path).parent for path in dataset.images} == {devkit / "JPEGImages"}


@pytest.mark.parametrize("key", ["images", "masks", "mask_name"])
@pytest.mark.parametrize("value", ["/etc", "../outside", "a/../../outside"])
def test_a_description_reaches_no_other_folder(tmp_path: Path, key: str, value: str) -> None:
    described = {
        "names": ["a", "b"],
        "images": "i/{split}",
        "masks": "m",
        "mask_name": "{stem}.png",
        key: value,
    }
    (tmp_path / "dataset.yaml").write_text(json.dumps(described))
    splits(tmp_path)
    with pytest.raises(ValueError, match=f"{key} is .*must be a path below") as error:
        open_dataset(tmp_path, "train")
    one_line(error)


def test_memory_stays_bounded_where_a_json_is_nothing_but_brackets(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" + "[]," * ((JSON_BYTES - 8) // 3) + "[]]")
    added = AddedMemory()
    read_json(tmp_path / "x.json")
    assert added.peak() < 2**30
