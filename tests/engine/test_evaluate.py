"""Evaluation at the masks' own size, by laws that it must keep."""

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segdistill.data.labels import LabelSet
from segdistill.data.samples import Sample
from segdistill.data.transforms import normalise
from segdistill.engine.evaluate import EvaluationOptions, evaluate, evaluate_together
from segdistill.engine.runtime import make_accelerator
from segdistill.inference.segment import segment
from segdistill.models.student import DSUNet

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("dark", "bright"))


class Brightness(nn.Module):
    """Calls a pixel bright where its mean is above grey."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean = image.mean(dim=1, keepdim=True)
        return torch.cat([-mean, mean], dim=1)


class Recorder(Brightness):
    """Notes the sizes of what it sees."""

    sizes: tuple[tuple[int, ...], ...] = ()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.sizes += (tuple(image.shape),)
        return super().forward(image)


class Broken(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")


class Pictures(torch.utils.data.Dataset[Sample]):
    """Halves of black and white, of several sizes."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        mask = torch.zeros(8 + index, 12, dtype=torch.uint8)
        mask[:, 6:] = 1
        return Sample(255 * mask.expand(3, -1, -1), mask, str(index), (mask.shape[0], mask.shape[1]))


@pytest.mark.parametrize("size", [None, 12, 24])
def test_a_perfect_network_scores_one(accelerator: Accelerator, size: int | None) -> None:
    scores = evaluate(Brightness(), Pictures(), LABELS, accelerator, EvaluationOptions(size=size)).summary()
    assert scores["miou"] == scores["pixel_accuracy"] == 1.0
    assert scores["pixels"] == 12 * (8 + 9 + 10)
    assert list(scores["images"]) == ["0", "1", "2"]


def test_the_network_sees_the_long_side_that_is_asked_for(accelerator: Accelerator) -> None:
    for size, heights in ((None, (8, 9, 10)), (24, (16, 18, 20)), (6, (4, 4, 5))):  # 9 / 2 rounds to even
        network = Recorder()
        evaluate(network, Pictures(), LABELS, accelerator, EvaluationOptions(size=size))
        assert network.sizes == tuple((1, 3, height, size or 12) for height in heights)


def test_logits_are_enlarged_and_not_classes() -> None:
    class Coarse(nn.Module):
        """Answers two columns: class 1 with logits 0 and 4 against 0.9."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[[0.9, 0.9]], [[0.0, 4.0]]])[None]

    # Four columns of class 1 get 0, 1, 3, 4: the second is above 0.9 already, its half of the classes is not.
    logits = segment(Coarse(), torch.zeros(3, 1, 2, dtype=torch.uint8), (1, 4))
    torch.testing.assert_close(logits[1], torch.tensor([[0.0, 1.0, 3.0, 4.0]]))
    assert logits.argmax(dim=0).tolist() == [[0, 1, 1, 1]]


def test_each_image_is_counted_once(accelerator: Accelerator) -> None:
    done = []
    evaluate(Brightness(), Pictures(), LABELS, accelerator, EvaluationOptions(advance=lambda: done.append(1)))
    assert len(done) == 3


def test_a_stop_leaves_out_the_images_that_follow(accelerator: Accelerator) -> None:
    done: list[int] = []
    options = EvaluationOptions(advance=lambda: done.append(1), stopped=lambda: len(done) == 2)
    metrics = evaluate(Brightness(), Pictures(), LABELS, accelerator, options)
    assert list(metrics.summary()["images"]) == ["0", "1"]
    assert metrics.confusion.sum() == 12 * (8 + 9)


def test_half_precision_scores_the_same_decisions() -> None:
    half = make_accelerator("cpu", "bf16")
    scores = evaluate(Brightness(), Pictures(), LABELS, half, EvaluationOptions(size=24)).summary()
    assert scores["miou"] == 1.0


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_restored(accelerator: Accelerator, mode: bool) -> None:
    class Watched(Brightness):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return super().forward(image)

    network = Watched().train(mode)
    evaluate(network, Pictures(), LABELS, accelerator)
    assert network.training is mode


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_restored_after_an_error_too(accelerator: Accelerator, mode: bool) -> None:
    network = Broken().train(mode)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(network, Pictures(), LABELS, accelerator)
    assert network.training is mode


def test_a_teacher_is_compared_with(accelerator: Accelerator) -> None:
    class Contrary(Brightness):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return -super().forward(image)

    scores = evaluate(Brightness(), Pictures(), LABELS, accelerator, teacher=Contrary()).summary()
    assert scores["teacher_agreement"] == 0.0


def test_the_teacher_sees_images_at_their_own_size(accelerator: Accelerator) -> None:
    student, teacher = Recorder(), Recorder()
    evaluate(student, Pictures(), LABELS, accelerator, EvaluationOptions(size=24), teacher=teacher)
    assert student.sizes == tuple((1, 3, height, 24) for height in (16, 18, 20))
    assert teacher.sizes == tuple((1, 3, height, 12) for height in (8, 9, 10))


def test_networks_scored_together_read_each_image_once_and_see_it_at_their_own_size(
    accelerator: Accelerator,
) -> None:
    read: list[int] = []

    class Counted(Pictures):
        def __getitem__(self, index: int) -> Sample:
            read.append(index)
            return super().__getitem__(index)

    first, second = Recorder().eval(), Recorder().eval()
    found = evaluate_together([(first, None), (second, 24)], Counted(), LABELS, accelerator)
    assert read == [0, 1, 2]
    assert first.sizes == tuple((1, 3, height, 12) for height in (8, 9, 10))
    assert second.sizes == tuple((1, 3, height, 24) for height in (16, 18, 20))
    for metrics, size in zip(found, (None, 24), strict=True):
        alone = evaluate(Brightness(), Pictures(), LABELS, accelerator, EvaluationOptions(size=size))
        assert metrics.summary() == alone.summary()


def test_the_counts_of_all_images_add_up_to_the_confusion_matrix(accelerator: Accelerator) -> None:
    torch.manual_seed(0)
    network = DSUNet(2, width=0.1)
    metrics = evaluate(network, Noise(3, mirrored=False), LABELS, accelerator)
    assert list(metrics.counts) == list(metrics.summary()["images"]) == ["0", "1"]
    right, predicted, true = sum(metrics.counts.values())
    assert torch.equal(right, metrics.confusion.diagonal())
    assert torch.equal(predicted, metrics.confusion.sum(dim=0))
    assert torch.equal(true, metrics.confusion.sum(dim=1))
    assert right.sum() < true.sum()


@given(seed=st.integers(0, 1000), height=st.integers(3, 20), width=st.integers(3, 20))
@settings(max_examples=20, deadline=None)
def test_with_mirrored_views_flipping_the_image_flips_the_answer(seed: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    network = DSUNet(3, width=0.1).eval()
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    plain = segment(network, image, (17, 11), flip=True)
    mirrored = segment(network, image.flip(2), (17, 11), flip=True)
    torch.testing.assert_close(plain, mirrored.flip(2), atol=1e-4, rtol=1e-4)


class Noise(torch.utils.data.Dataset[Sample]):
    """Random pictures with random masks, or their mirror images."""

    def __init__(self, seed: int, mirrored: bool) -> None:
        self.seed, self.mirrored = seed, mirrored

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(self.seed + index)
        image = torch.randint(0, 256, (3, 9, 11 + index), dtype=torch.uint8, generator=generator)
        mask = torch.randint(0, 2, (9, 11 + index), dtype=torch.uint8, generator=generator)
        seen = (image.flip(2), mask.flip(1)) if self.mirrored else (image, mask)
        return Sample(*seen, str(index), (mask.shape[0], mask.shape[1]))


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_with_mirrored_views_a_mirrored_data_set_has_the_same_scores(seed: int) -> None:
    torch.manual_seed(seed)
    network, accelerator = DSUNet(2, width=0.1).eval(), make_accelerator("cpu", "fp32")
    plain, mirrored = (
        evaluate(network, Noise(seed, flipped), LABELS, accelerator, EvaluationOptions(flip=True)).confusion
        for flipped in (False, True)
    )
    assert torch.equal(plain, mirrored)
    assert plain.sum() == 9 * (11 + 12)


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
