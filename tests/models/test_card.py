"""model.json and model.safetensors: written, read back, and refused where they are damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segdistill.data.labels import LabelSet
from segdistill.models.card import CARD, WEIGHTS, ModelCard, is_run, read_card, read_weights

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road"), palette=((1, 2, 3), (4, 5, 6)), void=7)
FULL = ModelCard(
    spec="dsunet",
    width=0.5,
    labels=LABELS,
    size=256,
    evaluate_size=512,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    metrics={"miou": 0.25, "step": 3},
    teacher={"spec": "fcn_resnet50", "scale": 2.0, "fingerprint": "ab"},
    version="1.2.3",
    temperature=1.5,
)
LEAST = ModelCard(spec="dsunet", width=1.0, labels=LABELS, size=64, evaluate_size=None)


@pytest.mark.parametrize("card", [FULL, LEAST])
def test_a_card_is_read_back_equal(tmp_path: Path, card: ModelCard) -> None:
    assert not is_run(tmp_path)
    (tmp_path / CARD).write_text(card.to_json())
    assert is_run(tmp_path)
    assert read_card(tmp_path) == card


def test_a_folder_without_a_card_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"it has no model\.json .*first evaluation"):
        read_card(tmp_path)


def changed(**changes: Any) -> str:
    return json.dumps(json.loads(FULL.to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        FULL.to_json()[:-10],
        "[]",
        "null",
        "{}",
        changed(labels={}),
        changed(labels={"names": ["one"]}),
        changed(mean=3),
        changed(colour="red"),
        changed(temperature=0),
        changed(temperature=-1.5),
        changed(temperature="1.5"),
        changed(temperature=None),
        changed(temperature=float("nan")),
        changed(temperature=float("inf")),
        changed(temperature=1e300),
    ],
)
def test_a_damaged_card_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD).write_text(text)
    with pytest.raises(ValueError, match=r"model\.json is not a model card of segdistill: ."):
        read_card(tmp_path)


def test_a_card_of_an_earlier_version_has_temperature_one(tmp_path: Path) -> None:
    content = json.loads(FULL.to_json())
    del content["temperature"]
    (tmp_path / CARD).write_text(json.dumps(content))
    assert read_card(tmp_path).temperature == 1.0


def test_weights_in_float16_come_back_in_float32(tmp_path: Path) -> None:
    stored = {"weight": torch.tensor([0.5, -1.25], dtype=torch.float16), "count": torch.tensor(2**40)}
    save_file(stored, tmp_path / WEIGHTS)
    state = read_weights(tmp_path / WEIGHTS)
    assert torch.equal(state["weight"], torch.tensor([0.5, -1.25]))
    assert state["weight"].dtype == torch.float32
    assert torch.equal(state["count"], torch.tensor(2**40))  # a counter stays the integer it is


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_torn_weights_are_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / WEIGHTS
    save_file({"weight": torch.ones(9)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file: ."):
        read_weights(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        read_weights(tmp_path / WEIGHTS)
