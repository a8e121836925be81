"""What an exported file is compared on: drawn images that the network takes, and images with masks."""

from pathlib import Path

import pytest
import torch

from segdistill.data.datasets import open_dataset
from segdistill.data.labels import LabelSet
from segdistill.exporting import parity
from segdistill.models.trained import TrainedNetwork, load_network

pytestmark = pytest.mark.unit


def test_sizes_that_the_network_itself_refuses_are_left_out() -> None:
    class Padded(torch.nn.Conv2d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.nn.functional.pad(image, (3, 3, 3, 3), mode="reflect"))

    network = TrainedNetwork(Padded(3, 2, 7), LabelSet(names=("a", "b")), "padded")
    assert parity.compare_logits(network, network)["sizes"] == [[7, 5], [33, 65], [64, 64], [97, 128]]
    never = TrainedNetwork(torch.nn.Conv2d(4, 2, 1), LabelSet(names=("a", "b")), "never")
    with pytest.raises(ValueError, match="never cannot be run on any"):
        parity.compare_logits(never, network)


def test_drawn_images_are_the_same_each_time_and_not_grey() -> None:
    one, two = (parity.draw_images(2, 33, 65, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (2, 3, 33, 65)
    assert one.float().std() > 20


def test_a_network_agrees_with_itself_and_not_with_another() -> None:
    torch.manual_seed(0)
    labels = LabelSet(names=("a", "b"))
    one, other = (TrainedNetwork(torch.nn.Conv2d(3, 2, 1), labels, name) for name in ("one", "other"))
    same = parity.compare_logits(one, one)
    assert same == {
        "sizes": [list(size) for size in parity.SIZES], "batches": [1, 3], "logit_difference": 0.0,
        "same_class": 1.0,
    }  # fmt: skip
    differing = parity.compare_logits(one, other)
    assert differing["logit_difference"] > 0.1
    assert differing["same_class"] < 0.99


def test_a_network_with_outputs_of_another_shape_is_refused() -> None:
    two, three = (
        TrainedNetwork(torch.nn.Conv2d(3, count, 1), LabelSet(names=tuple("abc"[:count])), str(count))
        for count in (2, 3)
    )
    with pytest.raises(ValueError, match=r"3 outputs \[1, 3, 1, 1\] for \[1, 3, 1, 1\], not \[1, 2, 1, 1\]"):
        parity.compare_logits(two, three)


def test_scores_are_of_the_images_that_were_asked_for(run: Path, shapes: Path) -> None:
    network, samples = load_network(str(run)), open_dataset(str(shapes), "val")
    assert parity.compare_scores(network, network, None, 0) is None
    assert parity.scores_record(None)["images"] == 0
    scores = parity.scores_record(parity.compare_scores(network, network, samples, 0))
    assert scores["images"] == len(samples) == 4
    assert scores["miou_before"] == scores["miou_after"] is not None
    assert scores["equal_pixels"] == 1
    half = parity.compare_scores(network, network, samples, 2)
    assert half is not None
    assert [str(name) for name in half.samples.ids] == [str(samples.ids[i]) for i in (0, 2)]


def test_a_comparison_in_words() -> None:
    record = {"same_class": 0.99987, "images": 20, "miou_before": 0.2245, "miou_after": 0.22}
    assert parity.parity_line(record) == (
        "99.987% of the pixels of drawn images have PyTorch's class; "
        "mean IoU on 20 images: 0.2245 in PyTorch, 0.2200 in the file"
    )
    assert "IoU" not in parity.parity_line(record | {"miou_after": None})
