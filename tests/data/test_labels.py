"""Label sets and the maps between them."""

from pathlib import Path

import pytest

from segdistill.data.labels import VOC, LabelSet, label_set, read_yaml, voc_colours

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


def test_the_colour_map_reaches_vocs_grey_at_255() -> None:
    assert [voc_colours(256)[i] for i in (12, 20, 64, 255)] == [
        (64, 0, 128), (0, 64, 128), (32, 0, 0), (224, 224, 192),
    ]  # fmt: skip


@pytest.mark.parametrize("void", [11.5, "255", None, -1])
def test_a_void_that_is_no_index_is_refused(void: object) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        label_set({"names": ["a", "b"], "void": void}, "mine.yaml")


@pytest.mark.parametrize("text", ["- a list", "names: [", ""])
def test_a_description_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        read_yaml(tmp_path / "mine.yaml")
