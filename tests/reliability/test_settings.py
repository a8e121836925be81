"""Settings and records that nobody would write: read, or refused with a message, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load
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


def refused_or_read(read: Any, *arguments: Any) -> bool:
    """Whether it was read; refused is fine too, with a message."""
    try:
        read(*arguments)
    except (ValueError, FileNotFoundError) as error:
        if not str(error):
            raise AssertionError("a refusal without a word") from error
        return False
    return True


@fuzz
@given(mappings)
def test_settings(tmp_path: Path, content: Any) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    refused_or_read(load, TrainConfig, tmp_path / "config.yaml")


@fuzz
@given(mappings)
def test_a_card(tmp_path: Path, content: Any) -> None:
    good = {"spec": "dsunet", "width": 1.0, "labels": {"names": ["a", "b"]}, "size": 8, "evaluate_size": None,
            "mean": [0, 0, 0], "std": [1, 1, 1]}  # fmt: skip
    for card in (content, good | content):
        (tmp_path / "model.json").write_text(json.dumps(card))
        refused_or_read(read_card, tmp_path)


@fuzz
@given(values)
def test_a_label_set(content: Any) -> None:
    refused_or_read(label_set, content, "x.yaml")
    refused_or_read(label_set, {"names": ["a", "b"], "palette": content, "void": content}, "x.yaml")


@fuzz
@given(mappings)
def test_a_description(tmp_path: Path, content: Any) -> None:
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"names": ["a", "b"], **content}))
    refused_or_read(open_dataset, tmp_path, "train")
    refused_or_read(splits, tmp_path)


@fuzz
@given(values)
def test_the_records_of_a_run(tmp_path: Path, content: Any) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    for name in ("metrics.json", "environment.json", "cost.json", "nonfinite.json"):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "history.jsonl").write_text(f"{json.dumps(content)}\n" * 2)
    refused_or_read(read_records, RunFolder(tmp_path), "x")
    refused_or_read(load_dump, tmp_path / "nonfinite.json")


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
@given(mappings, values)
def test_all_of_them_by_the_thousand(tmp_path: Path, content: Any, record: Any) -> None:
    refused_or_read(label_set, content, "x.yaml")
    (tmp_path / "model.json").write_text(json.dumps(content))
    refused_or_read(read_card, tmp_path)
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"names": ["a", "b"], **content}))
    refused_or_read(open_dataset, tmp_path, "train")
    refused_or_read(splits, tmp_path)


@pytest.mark.soak
def test_bytes_that_lead_to_new_code() -> None:
    pytest.importorskip("atheris")
    fuzz = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "-max_total_time=60", "-max_len=400"]
    done = subprocess.run(fuzz, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
