"""Label sets and the maps between them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.data.labels import VOC, LabelMap, LabelSet, label_set, read_yaml, voc_colours

pytestmark = pytest.mark.unit
ABC = LabelSet(names=("a", "b", "c"))


def test_voc_has_its_names_and_colours() -> None:
    assert len(VOC) == 21
    assert VOC.palette[:2] == ((0, 0, 0), (128, 0, 0))
    assert VOC.palette[VOC.names.index("person")] == (192, 128, 128)
    assert VOC.palette[VOC.names.index("tvmonitor")] == (0, 64, 128)
    assert VOC.file_palette[3:6] == [128, 0, 0]
    assert VOC.file_palette[-3:] == [224, 224, 192]


def test_torchvisions_background_is_vocs() -> None:
    assert LabelSet(names=("__background__", "cat")).names == ("background", "cat")


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": ["one"]},
        {"names": ["a", "a"]},
        {"names": "abc"},
        {},
        {"names": ["a", "b"], "palette": [[0, 0, 0]]},
        {"names": ["a", "b"], "palette": [[0, 0, 0], [0, 0, 256]]},
        {"names": ["a", "b"], "void": 256},
        {"names": [["a"], ["b"]]},
        {"names": ["a", None]},
        {"names": ["a", "b"], "palette": 5},
        {"names": ["a", "b"], "palette": [5, 6]},
        {"names": ["a", "b"], "palette": [[0, 0, 0], [0, 0, "x"]]},
    ],
)
def test_a_wrong_description_names_its_file(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        label_set(wrong, "mine.yaml")


def test_a_wrong_entry_is_shown_with_what_to_write() -> None:
    with pytest.raises(
        ValueError, match=r"^x: names has \[1\], but must list a text for each class, such as"
    ):
        label_set({"names": ["a", [1]]}, "x")
    with pytest.raises(ValueError, match=r"^x: names has None, but must list a text"):
        label_set({"names": ["a", None]}, "x")
    with pytest.raises(ValueError, match=r"^x: palette is 5, but must list an \[R, G, B\], each 0 to 255"):
        label_set({"names": ["a", "b"], "palette": 5}, "x")


def test_dictionary_form_reads_back() -> None:
    original = LabelSet(names=("a", "b"), palette=((1, 2, 3), (4, 5, 6)), void=11)
    assert label_set(original.to_dict(), "x") == original


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="no class is called d; classes are a, b, c"):
        ABC.index(["a", "d"])


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


def test_the_colour_map_reaches_vocs_grey_at_255() -> None:
    assert [voc_colours(256)[i] for i in (12, 20, 64, 255)] == [
        (64, 0, 128), (0, 64, 128), (32, 0, 0), (224, 224, 192),
    ]  # fmt: skip


@pytest.mark.parametrize("void", [11.5, "255", None, -1])
def test_a_void_that_is_no_index_is_refused(void: object) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        label_set({"names": ["a", "b"], "void": void}, "mine.yaml")


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


@pytest.mark.parametrize("text", ["- a list", "names: [", ""])
def test_a_description_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        read_yaml(tmp_path / "mine.yaml")
