"""The teacher: frozen, in the student's classes, at the student's size."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segdistill.data.labels import LabelSet
from segdistill.models.hooks import FeatureHook
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


# Averages

TWO = LabelSet(names=("ground", "roof"))


class Columns(nn.Module):
    """Gives the first of two classes these probabilities, column by column, whatever the image; counts."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        first = torch.tensor(probabilities)
        self.logits, self.sizes = torch.stack([first, 1 - first]).log(), []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(image.shape[2:]))
        return self.logits[None, :, None].expand(len(image), -1, image.shape[2], -1)


def columns(*probabilities: float, labels: LabelSet = TWO) -> TrainedNetwork:
    return TrainedNetwork(Columns(*probabilities), labels, "columns")


def first_class(teacher: Teacher, width: int) -> list[float]:
    """The probability of the first class in each column."""
    return teacher(torch.zeros(2, 3, 1, width)).softmax(dim=1)[1, 0, 0].tolist()


def test_flip_averages_with_the_mirrored_image() -> None:
    network = columns(0.9, 0.6, 0.1)
    assert first_class(Teacher(network, TWO), 3) == pytest.approx([0.9, 0.6, 0.1])
    # Of the mirrored image the network says the same, which belongs to the columns in reverse: 0.1, 0.6, 0.9.
    assert first_class(Teacher(network, TWO, flip=True), 3) == pytest.approx([0.5, 0.6, 0.5])


def test_networks_are_averaged_with_their_weights_each_with_its_own_classes() -> None:
    other = columns(0.6, labels=LabelSet(names=("roof", "ground")))  # so that its ground is 0.4
    assert first_class(Teacher([columns(0.8), other], TWO), 1) == pytest.approx([0.6])
    # (3 * 0.8 + 0.4) / 4
    assert first_class(Teacher([columns(0.8), other], TWO, mix=(3, 1)), 1) == pytest.approx([0.7])
    assert first_class(Teacher([other, columns(0.8)], TWO, mix=(0.25, 0.75)), 1) == pytest.approx([0.7])


def test_a_name_is_changed_for_the_network_that_has_it() -> None:
    foreign = columns(0.4, labels=LabelSet(names=("toit", "ground")))
    teacher = Teacher([columns(0.8), foreign], TWO, rename={"toit": "roof"})
    assert first_class(teacher, 1) == pytest.approx([0.7])
    with pytest.raises(ValueError, match=r"columns: .* names in the map that it lacks: tejado"):
        Teacher([columns(0.8), foreign], TWO, rename={"toit": "roof", "tejado": "roof"})


class Wide(nn.Module):
    """Surer of the first class the larger the image: 0.5 up to 10 columns, else 0.9."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = torch.full_like(image[:, :1], 0.9 if image.shape[3] > 10 else 0.5)
        return torch.cat([first, 1 - first], dim=1).log()


def test_scales_are_averaged() -> None:
    network = TrainedNetwork(Wide(), TWO, "wide")
    assert first_class(Teacher(network, TWO, scales=(1.0,)), 10) == pytest.approx([0.5] * 10)
    # (0.5 + 0.9 + 0.9) / 3
    found = first_class(Teacher(network, TWO, scales=(1.0, 1.5, 2.0)), 10)
    assert found == pytest.approx([2.3 / 3] * 10)


def test_logits_are_resized_to_the_largest_input_and_then_averaged() -> None:
    image = 3 * torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    found = Teacher(TrainedNetwork(Echo(), LABELS, "echo"), LABELS, scales=(0.5, 2.0))(image)

    def resized(values: torch.Tensor, *size: int) -> torch.Tensor:
        return F.interpolate(values, size=size, mode="bilinear", align_corners=False)

    small, large = resized(resized(image, 3, 4), 12, 16), resized(image, 12, 16)
    mean = (small.softmax(dim=1) + large.softmax(dim=1)) / 2
    torch.testing.assert_close(found, resized(mean.log(), 6, 8))


@pytest.mark.parametrize(
    ("scales", "flip", "sizes"),
    [
        ((1.0,), False, [(4, 4)]),
        ((2.0,), True, [(8, 8)] * 2),
        ((1.0, 2.0), False, [(8, 8), (4, 4)]),  # the first scale comes last, see the hook
        ((2.0, 1.0), True, [(4, 4)] * 2 + [(8, 8)] * 2),
    ],
)
def test_each_view_is_one_pass(scales: tuple[float, ...], flip: bool, sizes: list[tuple[int, int]]) -> None:
    one, other = columns(0.5), columns(0.5)
    Teacher([one, other], TWO, scales=scales, flip=flip)(torch.zeros(3, 3, 4, 4))
    assert one.module.sizes == other.module.sizes == sizes


def test_a_hook_holds_the_first_networks_plain_features_at_the_first_scale() -> None:
    first, second, image = trained(), trained(), torch.randn(1, 3, 16, 24)
    teacher = Teacher([first, second], LABELS, scales=(1.0, 2.0), flip=True)
    hook = FeatureHook(teacher.network.module, None, "layer")
    teacher(image)
    found = hook.pop()
    first(image)
    assert torch.equal(found, hook.pop())
    first(image.flip(3))
    assert not torch.equal(found, hook.pop())


@pytest.mark.parametrize(
    "changed",
    [{"flip": True}, {"scales": (1.0, 2.0)}, {"mix": (2, 1)}],
)
def test_fingerprint_depends_on_what_is_averaged(changed: dict[str, Any]) -> None:
    plain = Teacher([trained(), trained()], LABELS)
    assert plain.fingerprint() == Teacher([trained(), trained()], LABELS, mix=(5, 5)).fingerprint()
    assert plain.fingerprint() != Teacher([trained(), trained()], LABELS, **changed).fingerprint()
    assert plain.fingerprint() != Teacher(trained(), LABELS).fingerprint()


# Corner-aligned networks


class Cornered(nn.Module):
    """Every 16th pixel, enlarged with aligned corners: the image itself where its sides are 16k + 1."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.size = tuple(image.shape[2:])
        coarse = image[:, :, ::16, ::16]
        return F.interpolate(coarse, size=self.size, mode="bilinear", align_corners=True)


def ramp(height: int, width: int) -> torch.Tensor:
    """The position along both axes, 0 to 1, in a channel each."""
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    return torch.stack(
        [y[:, None].expand(height, width), x.expand(height, width), torch.zeros(height, width)]
    )


def cornered(output_stride: int | None) -> TrainedNetwork:
    network = TrainedNetwork(Cornered(), LABELS, "cornered")
    network.output_stride = output_stride
    return network


def test_a_corner_aligned_network_is_exact_at_a_multiple_plus_one() -> None:
    image = ramp(33, 49)[None]
    for stride in (None, 16):
        torch.testing.assert_close(cornered(stride)(image), image)


@pytest.mark.parametrize(
    ("size", "scale", "given"),
    [((32, 48), 1.0, (33, 49)), ((40, 25), 1.6, (65, 33)), ((5, 4), 1.0, (17, 17))],
)
def test_output_stride_shifts_no_logits(size: tuple[int, int], scale: float, given: tuple[int, int]) -> None:
    image = ramp(*size)[None]
    aligned, plain = (Teacher(cornered(stride), LABELS, scales=(scale,)) for stride in (16, None))
    error = (aligned(image) - image).abs().amax()
    assert aligned.network.module.size == given
    assert error < 0.5 / min(size)  # what bilinear resizing loses at the border
    assert (plain(image) - image).abs().amax() > 10 * error
    alone = cornered(16)
    alone(image)
    assert (alone.module.size == given) == (scale == 1)


def test_output_stride_is_in_the_fingerprint() -> None:
    assert len({Teacher(cornered(stride), LABELS).fingerprint() for stride in (None, 8, 16)}) == 3


def test_networks_that_lack_different_classes_are_not_averaged() -> None:
    target = LabelSet(names=("a", "b", "c"))
    first, second = (
        TrainedNetwork(nn.Conv2d(3, 2, 1), LabelSet(names=names), names[1])
        for names in (("a", "b"), ("a", "c"))
    )
    assert Teacher(first, target, shared_only=True).shared == [0, 1]
    assert Teacher(first, LabelSet(names=("b", "a"))).shared is None
    with pytest.raises(ValueError, match=r"but b lacks c and c lacks b: leave one out"):
        Teacher([first, second], target, shared_only=True)
    with pytest.raises(ValueError, match=r"No class of the network is c"):
        Teacher(first, target)


def test_a_map_may_name_classes_of_another_network() -> None:
    target = LabelSet(names=("road", "sky"))
    first = TrainedNetwork(nn.Conv2d(3, 2, 1), LabelSet(names=("street", "sky")), "first")
    second = TrainedNetwork(nn.Conv2d(3, 2, 1), LabelSet(names=("way", "sky")), "second")
    teacher = Teacher([first, second], target, rename={"street": "road", "way": "road"})
    assert [one.sources for one in teacher.to_student] == [[[0], [1]], [[0], [1]]]
    with pytest.raises(
        ValueError, match=r"^first: .*names in the map that it lacks: lane\. .*'{street: road}'"
    ):
        Teacher([first, second], target, rename={"street": "road", "lane": "road"})
