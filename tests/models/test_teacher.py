"""The teacher: frozen, in the student's classes, at the student's size."""

import pytest
import torch
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


def test_two_passes_are_identical_even_after_train() -> None:
    teacher, image = Teacher(trained(), LABELS), torch.randn(2, 3, 16, 16)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    nn.ModuleList([teacher]).train()
    first, second = teacher(image), teacher(image)
    assert torch.equal(first, second)
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_nothing_in_it_has_a_gradient() -> None:
    teacher = Teacher(trained(), LABELS)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(torch.randn(1, 3, 8, 8, requires_grad=True)).requires_grad


def test_classes_are_mapped_by_name() -> None:
    teacher = Teacher(trained(), LabelSet(names=("roof", "ground", "road")))
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(teacher(image), trained()(image)[:, [2, 0, 1]])


def test_several_classes_onto_one_add_up_their_probabilities() -> None:
    target = LabelSet(names=("ground", "built"))
    teacher = Teacher(trained(), target, rename={"road": "built", "roof": "built"})
    image = torch.randn(1, 3, 8, 8)
    probabilities = trained()(image).softmax(dim=1)
    torch.testing.assert_close(teacher(image).softmax(dim=1)[:, 1], probabilities[:, 1:].sum(dim=1))


def test_what_does_not_map_is_named() -> None:
    with pytest.raises(ValueError, match=r"without a place there: roof; .* that it lacks: tree"):
        Teacher(trained(), LabelSet(names=("ground", "road", "tree")))


@pytest.mark.parametrize("scale", [0.5, 1.6, 3.0])
def test_an_enlarged_view_gives_logits_of_the_students_size(scale: float) -> None:
    assert Teacher(trained(), LABELS, scale=scale)(torch.randn(2, 3, 13, 17)).shape == (2, 3, 13, 17)


def test_the_network_gets_its_own_normalisation() -> None:
    class Echo(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image

    network = TrainedNetwork(Echo(), LABELS, "echo", mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    white = (1 - grey) / std
    # White is 1 in RGB: (1 - 0.5) / 0.25, / 0.5, / 1
    expected = torch.tensor([2.0, 1.0, 0.5]).view(1, 3, 1, 1)
    torch.testing.assert_close(network(white), expected)


def test_fingerprint_tells_weights_apart() -> None:
    first, second = trained(), trained()
    assert first.fingerprint() == second.fingerprint()
    with torch.no_grad():
        next(second.parameters()).add_(1e-6)
    assert first.fingerprint() != second.fingerprint()
