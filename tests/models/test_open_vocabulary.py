"""CLIPSeg with prompts: the maps of the library, the surest of a class's prompts, and a background."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import tiny_transformers as tiny
from tiny_transformers import picture, to_pil

from segdistill.build import open_teacher
from segdistill.config.prompts import PromptConfig
from segdistill.config.train import TeacherConfig
from segdistill.data.labels import LabelSet
from segdistill.data.transforms import normalise
from segdistill.models.teacher import Teacher
from segdistill.models.trained import LoadOptions, TrainedNetwork, load_network

pytestmark = pytest.mark.unit
PROMPTS: dict[str, Any] = {"road": "a road", "tree": ["tree", "bush"]}
LABELS = LabelSet(names=("background", "road", "tree"))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf:{tiny.save('clipseg', tmp_path_factory.mktemp('hf') / 'clipseg')}"


def network(spec: str, **settings: Any) -> TrainedNetwork:
    return load_network(spec, LoadOptions(prompts=PromptConfig(**{"prompts": PROMPTS, **settings})))


@torch.no_grad()
def library() -> torch.Tensor:
    """3 x 64 x 64: the library's map of each text."""
    model, processor = tiny.make("clipseg")
    texts = ["a road", "tree", "bush"]
    inputs = processor(text=texts, images=[to_pil(picture(64, 64))] * 3, padding=True, return_tensors="pt")
    return model(**inputs).logits


def test_a_class_has_the_map_of_its_surest_prompt(spec: str) -> None:
    opened, (road, tree, bush) = network(spec, prompt_threshold=0.55), library()
    assert opened.labels.names == LABELS.names
    with torch.no_grad():
        logits = opened(normalise(picture(64, 64)[None]))
    torch.testing.assert_close(logits[0, 1], road, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits[0, 2], torch.maximum(tree, bush), rtol=1e-3, atol=1e-3)
    unsure = (logits[0, 1:].sigmoid() < 0.55).all(dim=0)
    assert unsure.any()
    assert not unsure.all()
    assert torch.equal(logits[0].argmax(dim=0) == 0, unsure)


def test_images_of_any_size_and_number(spec: str) -> None:
    with torch.no_grad():
        assert network(spec)(torch.randn(2, 3, 45, 67)).shape == (2, 3, 45, 67)


def test_without_a_threshold_there_is_no_background(spec: str) -> None:
    assert network(spec, prompt_threshold=None).labels.names == ("road", "tree")


def test_the_key_of_the_cache_depends_on_prompts_and_threshold(spec: str) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"prompts": {**PROMPTS, "road": "the road"}},
        {"prompts": {"road": ["a road", "tree"], "tree": "bush"}},  # the same texts, of other classes
        {"prompt_threshold": 0.6},
    ]
    keys = [Teacher(network(spec, **one), LABELS).fingerprint() for one in settings]
    assert len(set(keys)) == len(settings)
    assert keys[0] == Teacher(network(spec), LABELS).fingerprint()


def test_without_prompts_it_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"segments what prompts name: set teacher.prompts .*: prompts\)"):
        load_network(spec)


def test_prompts_for_another_network_are_refused(run: Path) -> None:
    labels = load_network(str(run)).labels
    with pytest.raises(ValueError, match="prompts are for open-vocabulary networks"):
        open_teacher(TeacherConfig(spec=str(run), prompts=PROMPTS), labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_threshold": 1.0}, "prompt_threshold is 1.0, but must be between 0 and 1, or null"),
        ({"prompts": {"road": []}}, "at least one text for each class"),
        ({"prompts": {"road": ["a road", ""]}}, "at least one text for each class"),
        ({"prompts": {"background": "sky"}}, "without background, unless prompt_threshold is null"),
    ],
)
def test_impossible_prompts_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptConfig(**settings)


def test_a_text_that_is_too_long_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="texts of 30 tokens at most"):
        network(spec, prompts={"road": "road " * 40, "tree": "tree"})


def test_the_teacher_takes_its_prompts_from_the_settings(spec: str) -> None:
    teacher = open_teacher(TeacherConfig(spec=spec, prompts=PROMPTS), LABELS)
    assert teacher is not None
    assert teacher.network.takes_prompts
