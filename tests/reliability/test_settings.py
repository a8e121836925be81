"""Settings and records: good ones are read, all others are read or refused with a message."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from segdistill.config.train import AugmentConfig, OptimConfig, TrainConfig
from segdistill.config.yaml import load, to_yaml
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.labels import label_set, read_yaml
from segdistill.engine.replay import load_dump
from segdistill.engine.run_folder import RunFolder
from segdistill.files import read_json
from segdistill.models.card import read_card
from segdistill.reporting.records import read_records

pytestmark = pytest.mark.unit
KEYS = (
    "names palette void images masks mask_name labels spec width size evaluate_size mean std metrics data "
    "root augment scale optim lr student teacher objective alpha losses weight map best last iou step ids"
).split()
plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.sampled_from(KEYS)
)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=12,
)
mappings = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)
fuzz = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


CARD = {"spec": "dsunet", "width": 1.0, "labels": {"names": ["a", "b"]}, "size": 8, "evaluate_size": None,
        "mean": [0, 0, 0], "std": [1, 1, 1]}  # fmt: skip
DESCRIPTION = {"names": ["a", "b"], "images": "images/{split}", "masks": "masks/{split}"}


def refused_or_read(read: Any, *arguments: Any) -> Any:
    """What was read; None where it was refused, which is fine too, with a message."""
    try:
        return read(*arguments)
    except (ValueError, FileNotFoundError) as error:
        if not str(error):
            raise AssertionError("a refusal without a message") from error
        return None


def near(good: dict[str, Any]) -> Any:
    """The good record with some of its values replaced, or with others beside them."""
    return st.dictionaries(st.sampled_from([*good, *KEYS]), values, max_size=2).map(
        lambda changes: good | changes
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of one image and its mask, and the tensors of a dumped batch of one image."""
    for name, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / name / "train").mkdir(parents=True)
        Image.new(mode, (8, 6)).save(tmp_path / name / "train" / "one.png")
    save_file({}, tmp_path / "model.safetensors")
    tensors = {
        "image": torch.zeros(1, 3, 6, 8),
        "mask": torch.zeros(1, 6, 8, dtype=torch.int64),
        "valid": torch.ones(1, 6, 8, dtype=torch.bool),
    }
    save_file(tensors, tmp_path / "nonfinite.safetensors")
    return tmp_path


# What is good is read: a reader that refuses everything would pass the tests below


@settings(fuzz, max_examples=10)
@given(st.integers(1, 10**6), st.floats(1e-6, 1), st.integers(8, 512), st.floats(0, 1))
def test_good_settings_are_read(tmp_path: Path, steps: int, lr: float, size: int, flip: float) -> None:
    config = TrainConfig(steps=steps, size=size, optim=OptimConfig(lr=lr), augment=AugmentConfig(flip=flip))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load(TrainConfig, tmp_path / "config.yaml") == config


@given(
    st.lists(st.text("abcXYZ -_", min_size=1).filter(str.strip), min_size=2, max_size=9, unique=True),
    st.integers(200, 255),
)
def test_good_label_sets_are_read(names: list[str], void: int) -> None:
    palette = [[index, 0, 255 - index] for index in range(len(names))]
    labels = label_set({"names": names, "palette": palette, "void": void}, "x.yaml")
    assert labels.to_dict() == {"names": names, "palette": palette, "void": void}


@fuzz
@given(st.floats(0.1, 8), st.none() | st.integers(1, 16_384), st.tuples(*[st.floats(-1, 1)] * 3))
def test_good_cards_are_read(folder: Path, width: float, size: int | None, mean: tuple[float, ...]) -> None:
    (folder / "model.json").write_text(
        json.dumps(CARD | {"width": width, "evaluate_size": size, "mean": mean})
    )
    card = read_card(folder)
    assert (card.spec, card.width, card.evaluate_size, card.mean) == ("dsunet", width, size, mean)
    assert card.labels.names == ("a", "b")


def test_a_good_description_is_read(folder: Path) -> None:
    (folder / "dataset.yaml").write_text(yaml.safe_dump(DESCRIPTION))
    samples = open_dataset(folder, "train")
    assert len(samples) == 1
    assert samples.labels.names == ("a", "b")
    assert splits(folder) == ["train"]


def test_the_good_records_of_a_run_are_read(run: Path) -> None:
    records = read_records(RunFolder(run), "x")
    assert [step["step"] for step in records.steps] == [1, 2, 3, 4, 5, 6]
    assert records.card is not None
    assert records.card.spec == "dsunet"


def test_a_good_dump_of_a_batch_is_read(folder: Path) -> None:
    (folder / "nonfinite.json").write_text(json.dumps({"step": 3, "ids": ["one"]}))
    dump = load_dump(folder / "nonfinite.json")
    assert (dump.record["step"], dump.batch.id) == (3, ["one"])
    assert dump.batch.image.shape == (1, 3, 6, 8)


@fuzz
@given(st.dictionaries(st.text("abc", min_size=1), st.integers() | st.booleans() | st.text("xyz é\n")))
def test_good_files_are_read(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "x").write_text(json.dumps(content))
    assert read_json(tmp_path / "x") == content
    (tmp_path / "x").write_text(yaml.safe_dump(content, allow_unicode=True))
    assert read_yaml(tmp_path / "x") == content


# Everything else is read, or refused with a message; and what is read is possible


@settings(fuzz, max_examples=20)
@given(mappings)
def test_settings(tmp_path: Path, content: Any) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    config = refused_or_read(load, TrainConfig, tmp_path / "config.yaml")
    assert config is None or (config.size > 0 and config.batch > 0 and config.optim.lr > 0)


@fuzz
@given(mappings | near(CARD))
def test_a_card(folder: Path, content: Any) -> None:
    (folder / "model.json").write_text(json.dumps(content))
    card = refused_or_read(read_card, folder)
    assert card is None or (0 < card.width <= 8 and len(card.labels) >= 2 and len(card.std) == 3)


@fuzz
@given(values)
def test_a_label_set(content: Any) -> None:
    for entry in (content, {"names": ["a", "b"], "palette": content}, {"names": ["a", "b"], "void": content}):
        labels = refused_or_read(label_set, entry, "x.yaml")
        assert labels is None or (
            len(labels) == len(set(labels.names)) == len(labels.palette) and 0 <= labels.void <= 255
        )


@fuzz
@given(near(DESCRIPTION))
def test_a_description(folder: Path, content: Any) -> None:
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))
    samples = refused_or_read(open_dataset, folder, "train")
    assert samples is None or len(samples) > 0
    refused_or_read(splits, folder)


@fuzz
@given(values | near({"step": 3, "ids": ["one"]}))
def test_the_records_of_a_run(folder: Path, content: Any) -> None:
    (folder / "config.yaml").write_text("{}")
    for name in ("metrics.json", "environment.json", "cost.json", "nonfinite.json"):
        (folder / name).write_text(json.dumps(content))
    (folder / "history.jsonl").write_text(f"{json.dumps(content)}\n" * 2)
    refused_or_read(read_records, RunFolder(folder), "x")
    dump = refused_or_read(load_dump, folder / "nonfinite.json")
    assert dump is None or (isinstance(dump.record["step"], int) and len(dump.batch.id) == 1)


@fuzz
@given(
    st.binary(max_size=300) | st.text(alphabet="[]{}:,-?&*!|>'\"%@# \n\ta0.e", max_size=80).map(str.encode)
)
def test_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    refused_or_read(read_yaml, tmp_path / "x")
    refused_or_read(read_json, tmp_path / "x")


@pytest.mark.soak
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mappings | near(CARD) | near(DESCRIPTION))
def test_all_of_them_by_the_thousand(folder: Path, content: Any) -> None:
    refused_or_read(label_set, content, "x.yaml")
    (folder / "model.json").write_text(json.dumps(content))
    refused_or_read(read_card, folder)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))
    refused_or_read(open_dataset, folder, "train")
    refused_or_read(splits, folder)


@pytest.mark.soak
def test_bytes_that_lead_to_new_code() -> None:
    pytest.importorskip("atheris")
    fuzz = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "-max_total_time=60", "-max_len=400"]
    done = subprocess.run(fuzz, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
