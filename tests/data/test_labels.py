"""Label sets and the maps between them."""

import pytest
import torch

from segdistill.data.labels import VOC, LabelMap, LabelSet, label_set

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
    ],
)
def test_a_wrong_description_names_its_file(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        label_set(wrong, "mine.yaml")


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


def test_what_does_not_map_is_named_on_both_sides() -> None:
    with pytest.raises(ValueError, match=r"without a place there: c; .* it lacks: d; .* lacks: x"):
        LabelMap(ABC, LabelSet(names=("a", "b", "d")), {"x": "d"})
