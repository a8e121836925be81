"""The teacher: frozen, in the student's classes, at the student's size."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segdistill.data.labels import LabelSet
from segdistill.models.student import DSUNet
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road", "roof"))


def trained(labels: LabelSet = LABELS) -> TrainedNetwork:
    torch.manual_seed(0)
    return TrainedNetwork(DSUNet(len(labels), width=0.1), labels, "dsunet")


class Echo(nn.Module):
    """Answers with the image, which it keeps."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.input = image
        return image


def test_two_passes_are_identical_even_after_train() -> None:
    teacher, image = Teacher(trained(), LABELS), torch.randn(2, 3, 16, 16)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    nn.ModuleList([teacher]).train()
    assert teacher.train() is teacher
    first, second = teacher(image), teacher(image)
    assert torch.equal(first, second)
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_network_in_training_is_frozen_too() -> None:
    network = trained().train()
    teacher = Teacher(network, LABELS)
    assert not any(module.training for module in teacher.modules())


def test_nothing_in_it_has_a_gradient() -> None:
    teacher = Teacher(trained(), LABELS)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(torch.randn(1, 3, 8, 8, requires_grad=True)).requires_grad


def test_classes_are_mapped_by_name() -> None:
    teacher = Teacher(trained(), LabelSet(names=("roof", "ground", "road")))
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(teacher(image), trained()(image)[:, [2, 0, 1]])
    assert teacher.classes == 3


def test_classes_are_renamed() -> None:
    renamed = Teacher(trained(), LabelSet(names=("street", "roof", "ground")), rename={"road": "street"})
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(renamed(image), trained()(image)[:, [1, 2, 0]])


def test_several_classes_onto_one_add_up_their_probabilities() -> None:
    target = LabelSet(names=("ground", "built"))
    teacher = Teacher(trained(), target, rename={"road": "built", "roof": "built"})
    image = torch.randn(1, 3, 8, 8)
    probabilities = trained()(image).softmax(dim=1)
    torch.testing.assert_close(teacher(image).softmax(dim=1)[:, 1], probabilities[:, 1:].sum(dim=1))


def test_what_does_not_map_is_named() -> None:
    with pytest.raises(ValueError, match=r"that the data set lacks: roof; .* that it lacks: tree"):
        Teacher(trained(), LabelSet(names=("ground", "road", "tree")))


@pytest.mark.parametrize("scale", [0.01, 0.5, 1.6, 3.0])
def test_an_upsampled_crop_gives_logits_of_the_students_size(scale: float) -> None:
    assert Teacher(trained(), LABELS, scales=(scale,))(torch.randn(2, 3, 13, 17)).shape == (2, 3, 13, 17)


@pytest.mark.parametrize(("scale", "size"), [(1.6, (21, 27)), (0.5, (6, 8))])  # 20.8, 27.2; 6.5, 8.5 to even
def test_the_network_gets_the_scaled_crop(scale: float, size: tuple[int, int]) -> None:
    echo, image = Echo(), torch.randn(2, 3, 13, 17)
    teacher = Teacher(TrainedNetwork(echo, LABELS, "echo"), LABELS, scales=(scale,))
    logits = teacher(image)
    expected = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    assert torch.equal(echo.input, expected)
    back = F.interpolate(expected, size=(13, 17), mode="bilinear", align_corners=False)
    assert torch.equal(logits, back)


def test_at_scale_one_the_network_gets_the_batch_itself() -> None:
    echo, image = Echo(), torch.randn(2, 3, 5, 7)
    assert torch.equal(Teacher(TrainedNetwork(echo, LABELS, "echo"), LABELS)(image), image)
    assert echo.input is image


@pytest.mark.parametrize(
    ("labels", "rename"),
    [(LabelSet(names=("roof", "ground", "road")), {}), (LABELS, {"road": "roof", "roof": "road"})],
)
def test_fingerprint_depends_on_where_the_classes_go(labels: LabelSet, rename: Any) -> None:
    plain = Teacher(trained(), LABELS)
    assert plain.fingerprint() == Teacher(trained(), LABELS).fingerprint()
    assert plain.fingerprint() != Teacher(trained(), labels, rename=rename).fingerprint()


def test_fingerprint_depends_on_the_weights() -> None:
    plain, other = Teacher(trained(), LABELS), Teacher(trained(), LABELS)
    next(other.parameters()).add_(1e-6)
    assert plain.fingerprint() != other.fingerprint()


def test_identity_is_what_the_card_says() -> None:
    network = trained()
    assert Teacher(network, LABELS, scales=(2.0,)).identity() == {
        "spec": "dsunet", "fingerprint": network.fingerprint(), "output_stride": None,
        "mix": [1.0], "scales": [2.0], "flip": False,
    }  # fmt: skip
    several = Teacher([network, network], LABELS, scales=(1.6, 2.0), flip=True, mix=(3, 1)).identity()
    assert several["spec"] == ["dsunet", "dsunet"]
    assert several["fingerprint"] == [network.fingerprint()] * 2
    assert (several["mix"], several["scales"], several["flip"]) == ([0.75, 0.25], [1.6, 2.0], True)
