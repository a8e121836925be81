"""The embedded data set is deterministic, labelled as it says, and never overwrites what it did not draw."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from segdistill.data.labels import VOID, label_set, read_yaml
from segdistill.data.shapes import CONTRAST, SHAPES, _colour, draw, write_shapes

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, seed=3, train=30, val=10, size=64)
    return root


@pytest.fixture(scope="module")
def masks():
    return np.stack([np.asarray(draw(0, index, 128)[1]) for index in range(60)])


def ids(root, split):
    return (root / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt").read_text().split()


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_draw_is_a_pure_function_of_its_arguments():
    first, again = draw(0, 5, 96), draw(0, 5, 96)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    for other in (draw(1, 5, 96), draw(0, 6, 96)):
        assert all(a.tobytes() != b.tobytes() for a, b in zip(first, other, strict=True))


def test_two_folders_of_one_seed_are_equal_byte_for_byte(finished, tmp_path):
    write_shapes(tmp_path, seed=3, train=30, val=10, size=64)
    assert contents(tmp_path) == contents(finished)


def test_layout(finished):
    devkit = finished / "VOCdevkit" / "VOC2012"
    train, val = ids(finished, "train"), ids(finished, "val")
    assert (len(train), len(val)) == (30, 10)
    assert not set(train) & set(val)
    assert {p.stem for p in (devkit / "JPEGImages").glob("*.jpg")} == {*train, *val}
    assert {p.stem for p in (devkit / "SegmentationClass").glob("*.png")} == {*train, *val}
    assert label_set(read_yaml(devkit / "dataset.yaml"), "dataset.yaml") == SHAPES
    with Image.open(devkit / "JPEGImages" / "shape_000000.jpg") as image:
        assert (image.mode, image.size, image.format) == ("RGB", (64, 64), "JPEG")


def test_mask_files_are_palette_images_of_the_label_set(finished):
    for name in ids(finished, "train"):
        with Image.open(finished / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png") as mask:
            assert (mask.mode, mask.size) == ("P", (64, 64))
            palette = mask.getpalette()
            assert palette is not None
            assert palette == SHAPES.file_palette[: len(palette)]
            assert set(np.unique(np.asarray(mask))) <= {*range(len(SHAPES)), VOID}


def test_a_file_can_be_redrawn_alone(finished):
    with Image.open(finished / "VOCdevkit/VOC2012/SegmentationClass/shape_000007.png") as mask:
        assert np.array_equal(np.asarray(mask), np.asarray(draw(3, 7, 64)[1]))


def test_every_class_occurs_and_background_is_common(masks):
    share = np.bincount(masks.ravel(), minlength=256) / masks.size
    assert set(np.unique(masks)) == {*range(len(SHAPES)), VOID}
    assert share[1 : len(SHAPES)].min() > 0.01
    assert 0.3 < share[0] < 0.75


@pytest.mark.parametrize("size", [64, 128, 256])
def test_void_is_a_thin_band(size):
    void = np.stack([np.asarray(draw(0, index, size)[1]) == VOID for index in range(8)])
    assert void.any(axis=(1, 2)).all()
    assert 0.02 < void.mean() < 0.25


def test_void_separates_the_classes(masks):
    for a, b in ((masks[:, 1:], masks[:, :-1]), (masks[:, :, 1:], masks[:, :, :-1])):
        assert not ((a != b) & (a != VOID) & (b != VOID)).any()


def test_there_is_a_contrasting_colour_for_any_five_beneath():
    rng = np.random.default_rng(0)
    corners = np.array(list(product((30.0, 225.0), repeat=3)))
    for beneath in (corners[:5], rng.uniform(30, 225, (5, 3)), np.full((1, 3), 127.5)):
        colour = _colour(rng, 1, beneath)
        assert np.linalg.norm(beneath - colour, axis=1).min() >= CONTRAST


def test_second_call_changes_nothing(finished):
    times = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    write_shapes(finished, seed=3, train=30, val=10, size=64)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == times


def test_other_arguments_are_refused_with_the_difference(finished):
    with pytest.raises(ValueError, match=r"train is 30, not 31.*choose another folder"):
        write_shapes(finished, seed=3, train=31, val=10, size=64)


def test_an_unfinished_folder_is_drawn_again(tmp_path):
    devkit = write_shapes(tmp_path, train=2, val=1, size=32)
    whole = contents(tmp_path)
    (tmp_path / "shapes.json").unlink()
    (devkit / "JPEGImages" / "shape_000001.jpg").write_bytes(b"half")
    write_shapes(tmp_path, train=2, val=1, size=32)
    assert contents(tmp_path) == whole


def test_another_data_set_is_left_alone(tmp_path):
    images = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages"
    images.mkdir(parents=True)
    (images / "2007_000032.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"another data set \(2007_000032.jpg\)"):
        write_shapes(tmp_path, train=1, val=1)


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("train", 0), ("val", 0), ("size", 16)])
def test_impossible_arguments_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        write_shapes(tmp_path, **{name: value})
