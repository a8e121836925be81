"""Maps between two label sets, and what is suggested where they do not fit."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.data.formats import cityscapes
from segdistill.data.label_map import ABSENT, LabelMap, aliases, nearest_name
from segdistill.data.labels import LabelSet, label_set, read_yaml

pytestmark = pytest.mark.unit
ABC = LabelSet(names=("a", "b", "c"))
ROOT = Path(__file__).parents[2]


def test_logits_are_mapped_by_name_never_by_position() -> None:
    logits = torch.arange(3.0).view(1, 3, 1, 1)
    assert LabelMap(ABC, LabelSet(names=("c", "a", "b")))(logits).flatten().tolist() == [2, 0, 1]
    assert LabelMap(ABC, ABC)(logits) is logits


def test_several_classes_onto_one_add_up_their_odds() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0]).log().view(1, 3, 1, 1)
    mapped = LabelMap(ABC, LabelSet(names=("a", "bc")), {"b": "bc", "c": "bc"})(logits)
    torch.testing.assert_close(mapped.flatten(), torch.tensor([1.0, 5.0]).log())


def test_a_class_goes_by_any_of_its_names() -> None:
    source = LabelSet(names=("wall", "person, individual", "road;route", "car"))
    target = LabelSet(names=("road", "person", "wall", "bus"))
    assert LabelMap(source, target, {"car": "bus"}).sources == [[2], [1], [0], [3]]
    # A whole name counts before a part of it, and what the map says before both.
    target = LabelSet(names=("road", "person", "person, individual", "bus"))
    assert LabelMap(source, target, {"route": "person", "wall": "road", "car": "bus"}).sources == [
        [0],
        [2],
        [1],
        [3],
    ]


def test_a_star_stands_for_all_classes_that_are_left() -> None:
    target = LabelSet(names=("a", "rest", "sea"))
    source = LabelSet(names=("a", "b", "c", "d, sea"))
    assert LabelMap(source, target, {"*": "rest", "c": "a"}).sources == [[0, 2], [1], [3]]
    with pytest.raises(ValueError, match="its classes that the data set lacks: b, c"):
        LabelMap(source, target, {})


def test_what_does_not_map_is_named_on_both_sides() -> None:
    with pytest.raises(ValueError, match=r"that the data set lacks: c; .* it lacks: d; .* lacks: x"):
        LabelMap(ABC, LabelSet(names=("a", "b", "d")), {"x": "d"})


def test_torchvisions_background_maps_onto_vocs() -> None:
    source = LabelSet(names=("cat", "__background__"))
    mapped = LabelMap(source, LabelSet(names=("background", "cat")))(
        torch.tensor([5.0, 7.0]).view(1, 2, 1, 1)
    )
    assert mapped.flatten().tolist() == [7, 5]


@given(order=st.permutations(range(5)), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_there_and_back_again_is_the_identity(order: list[int], seed: int) -> None:
    names = tuple("abcde")
    straight, permuted = LabelSet(names=names), LabelSet(names=tuple(names[i] for i in order))
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(seed))
    there = LabelMap(straight, permuted)(logits)
    assert torch.equal(there, logits[:, order])
    assert torch.equal(LabelMap(permuted, straight)(there), logits)


def test_merged_classes_keep_the_probabilities() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(dim=1)
    merged = LabelMap(ABC, LabelSet(names=("ac", "b")), {"a": "ac", "c": "ac"})(logits).softmax(dim=1)
    torch.testing.assert_close(merged, torch.stack([p[:, 0] + p[:, 2], p[:, 1]], dim=1))


def test_what_is_ignored_is_left_out_and_the_rest_renormalised() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(dim=1)
    for target, kept in ((LabelSet(names=("c", "a")), [2, 0]), (LabelSet(names=("a", "c")), [0, 2])):
        mapped = LabelMap(ABC, target, {"b": "ignore"})(logits).softmax(dim=1)
        torch.testing.assert_close(mapped, p[:, kept] / p[:, kept].sum(dim=1, keepdim=True))


def test_a_class_that_the_network_lacks_gets_no_probability_on_request() -> None:
    target, logits = LabelSet(names=("d", "b", "a")), torch.randn(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"No class of the network is d: teacher\.shared_only"):
        LabelMap(ABC, target, {"c": "ignore"})
    mapped = LabelMap(ABC, target, {"c": "ignore"}, partial=True)
    assert mapped.shared == [1, 2]
    p = mapped(logits).softmax(dim=1)
    torch.testing.assert_close(p[:, 1:], logits[:, [1, 0]].softmax(dim=1))
    torch.testing.assert_close(p[:, 0], torch.full((1, 2, 2), -ABSENT).exp())
    with pytest.raises(ValueError, match="classes of the data set that it lacks: x, y"):
        LabelMap(ABC, LabelSet(names=("x", "y")), {"*": "ignore"}, partial=True)


def test_a_network_for_cityscapes_gets_a_map_for_camvid_to_paste() -> None:
    camvid = label_set(read_yaml(ROOT / "configs/layouts/camvid.yaml"), "camvid.yaml")
    with pytest.raises(ValueError, match="does not map") as error:
        LabelMap(cityscapes.LABELS, camvid)
    assert pasted(error.value) == {
        "sidewalk": "pavement", "traffic sign": "sign-symbol", "vegetation": "tree", "person": "pedestrian",
        "rider": "bicyclist", "bicycle": "bicyclist", "*": "ignore",
    }  # fmt: skip
    assert "No class of the network" not in str(error.value)
    assert len(LabelMap(cityscapes.LABELS, camvid, pasted(error.value)).shared) == len(camvid)


def pasted(error: ValueError) -> dict[str, str]:
    """The map that an error suggests; empty where it suggests none."""
    found = re.search(r"to '({.*})'", str(error))
    return yaml.safe_load(found[1]) if found else {}


NAMES = st.lists(
    st.sampled_from(["sky", "road", "street", "person", "pedestrian", "tree, bush", "x: y", "*!", "cars"]),
    min_size=2, max_size=6, unique=True,
).map(lambda names: LabelSet(names=tuple(names)))  # fmt: skip


@given(source=NAMES, target=NAMES, rename=st.dictionaries(
    st.sampled_from(["sky", "road", "bush", "nowhere", "*"]), st.sampled_from(["sky", "roof", "ignore"])
))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_what_an_error_suggests_works(source: LabelSet, target: LabelSet, rename: dict[str, str]) -> None:
    try:
        LabelMap(source, target, rename)
    except ValueError as error:
        suggested = pasted(error)
        names = [alias for name in source.names for alias in aliases(name)]
        if any(suggested.get(alias, suggested.get("*", alias)) in target.names for alias in names):
            LabelMap(source, target, suggested, partial=True)


def test_names_that_mean_the_same_are_near() -> None:
    assert nearest_name("Couch", ["sofa", "coach"]) == "sofa"
    assert nearest_name("trafic light", ["traffic light", "light"]) == "traffic light"
    assert nearest_name("sky", ["road", "tree"]) is None
