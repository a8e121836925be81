"""Evaluation at the masks' own size, by laws that it must keep."""

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segdistill.data.datasets import Sample
from segdistill.data.labels import LabelSet
from segdistill.data.transforms import normalise
from segdistill.engine.evaluate import evaluate, segment
from segdistill.models.student import DSUNet

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("dark", "bright"))


class Brightness(nn.Module):
    """Calls a pixel bright where its mean is above grey."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean = image.mean(dim=1, keepdim=True)
        return torch.cat([-mean, mean], dim=1)


class Pictures(torch.utils.data.Dataset[Sample]):
    """Halves of black and white, of several sizes."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        mask = torch.zeros(8 + index, 12, dtype=torch.uint8)
        mask[:, 6:] = 1
        return Sample(255 * mask.expand(3, -1, -1), mask, str(index))


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.mark.parametrize("size", [None, 12, 24])
def test_a_perfect_network_scores_one(accelerator: Accelerator, size: int | None) -> None:
    scores = evaluate(Brightness(), Pictures(), LABELS, accelerator=accelerator, size=size).summary()
    assert scores["miou"] == scores["pixel_accuracy"] == 1.0
    assert scores["pixels"] == 12 * (8 + 9 + 10)
    assert list(scores["images"]) == ["0", "1", "2"]


def test_the_mode_is_restored_also_after_an_error(accelerator: Accelerator) -> None:
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    for network in (Brightness(), Broken()):
        for mode in (True, False):
            network.train(mode)
            try:
                evaluate(network, Pictures(), LABELS, accelerator=accelerator)
            except RuntimeError:
                assert isinstance(network, Broken)
            assert network.training is mode


def test_a_teacher_is_compared_with(accelerator: Accelerator) -> None:
    class Contrary(Brightness):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return -super().forward(image)

    scores = evaluate(Brightness(), Pictures(), LABELS, accelerator=accelerator, teacher=Contrary()).summary()
    assert scores["teacher_agreement"] == 0.0


@given(seed=st.integers(0, 1000), height=st.integers(3, 20), width=st.integers(3, 20))
@settings(max_examples=20, deadline=None)
def test_with_mirrored_views_flipping_the_image_flips_the_answer(seed: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    network = DSUNet(3, width=0.1).eval()
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    plain = segment(network, image, (17, 11), flip=True)
    mirrored = segment(network, image.flip(2), (17, 11), flip=True)
    torch.testing.assert_close(plain, mirrored.flip(2), atol=1e-4, rtol=1e-4)


def test_one_view_gives_the_networks_own_logits() -> None:
    network, image = DSUNet(3, width=0.1).eval(), torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(segment(network, image, (9, 9)), network(normalise(image)[None])[0])


def test_several_views_are_averaged_as_probabilities() -> None:
    network, image = DSUNet(3, width=0.1).eval(), torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    probabilities = segment(network, image, (16, 16), flip=True, scales=(0.5, 1.0)).exp().sum(dim=0)
    torch.testing.assert_close(probabilities, torch.ones(16, 16))
    views = [segment(network, x, (16, 16)).softmax(dim=0) for x in (image, image.flip(2))]
    expected = (views[0] + views[1].flip(2)) / 2
    torch.testing.assert_close(segment(network, image, (16, 16), flip=True).exp(), expected)
