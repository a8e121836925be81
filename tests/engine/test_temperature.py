"""The temperature of made-up logits, by hand and by laws; and what it must leave alone."""

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from segdistill.data.labels import VOID, LabelSet
from segdistill.data.samples import Sample
from segdistill.data.transforms import normalise
from segdistill.engine.evaluate import EvaluationOptions, evaluate
from segdistill.engine.metrics import Metrics
from segdistill.engine.temperature import (
    RANGE,
    FittedTemperature,
    PixelSample,
    best_temperature,
    calibrate,
    draw_pixels,
    fit,
    fit_line,
    fit_temperature,
)
from segdistill.models.student import DSUNet
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road", "roof"))
NOTHING = FittedTemperature(
    temperature=1.0, images=0, pixels=0, error_before=None, error_after=None, held_out_before=None,
    held_out_after=None,
)  # fmt: skip


def calibrated(pixels: int, seed: int = 0) -> PixelSample:
    """Logits of five classes, and classes drawn with the probabilities that they stand for."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(pixels, 5, generator=generator)
    target = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return PixelSample(logits=logits, target=target)


def test_two_logits_by_hand() -> None:
    # Logits 2 and 0, three of four pixels of the first class: 1 / (1 + exp(-2 / T)) = 3 / 4, so T = 2 / ln 3.
    logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
    found = fit_temperature(PixelSample(logits=logits, target=torch.tensor([0, 0, 0, 1])))
    assert found == pytest.approx(2 / math.log(3), rel=1e-5)


def test_logits_that_are_three_times_too_large_have_three_times_the_temperature() -> None:
    sample = calibrated(100_000)
    once = fit_temperature(sample)
    thrice = PixelSample(logits=3 * sample.logits, target=sample.target)
    assert once == pytest.approx(1, abs=0.02)
    assert fit_temperature(thrice) == pytest.approx(3 * once, rel=1e-5)
    assert thrice.error(1.0) > 0.1
    assert thrice.error(fit_temperature(thrice)) < 0.01


def test_no_other_temperature_has_a_smaller_likelihood() -> None:
    sample = calibrated(2000, seed=1)
    best = fit_temperature(sample)

    def loss(temperature: float) -> Tensor:
        return nn.functional.cross_entropy(sample.logits.double() / temperature, sample.target)

    assert all(loss(best) < loss(best * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_nothing_to_fit_on_is_temperature_one_and_no_error_the_lower_end() -> None:
    none = PixelSample(logits=torch.zeros(0, 3), target=torch.zeros(0, dtype=torch.int64))
    equal = PixelSample(logits=torch.ones(4, 3), target=torch.tensor([0, 1, 2, 0]))
    assert fit_temperature(none) == fit_temperature(equal) == 1.0
    assert none.error(1.0) is None
    right = PixelSample(logits=torch.eye(3), target=torch.arange(3))
    assert fit_temperature(right) == pytest.approx(RANGE[0], rel=1e-4)
    assert "no labelled pixel" in fit_line(NOTHING)


def test_a_temperature_that_would_raise_the_calibration_error_is_not_kept() -> None:
    # The second largest logit is right in 93 of 100 pixels: a low temperature makes it more likely, and
    # the network surer of the largest one, which is wrong.
    logits = torch.tensor([[1.0, 0.9, 0, 0, 0, 0, 0, 0, 0]]).repeat(100, 1)
    sample = PixelSample(logits=logits, target=torch.tensor([0] * 7 + [1] * 93))
    assert fit_temperature(sample) < 0.5
    assert sample.error(fit_temperature(sample)) > sample.error(1.0)
    assert best_temperature(sample) == 1.0
    thrice = PixelSample(logits=3 * calibrated(4000).logits, target=calibrated(4000).target)
    assert best_temperature(thrice) == fit_temperature(thrice)


class Drawn(torch.utils.data.Dataset[Sample]):
    """Random images of 40 x 50 pixels whose classes follow their brightness, with noise and void."""

    labels = LABELS

    def __init__(self, count: int = 6) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=generator)
        noise = 60 * torch.randn(40, 50, generator=generator)
        mask = ((image.float().mean(dim=0) + noise) / 86).long().clamp(0, 2).to(torch.uint8)
        mask[:4] = VOID
        return Sample(image, mask, f"image {index}", (40, 50))


def student() -> DSUNet:
    """With statistics in its norms, and logits large enough to be far too sure."""
    torch.manual_seed(0)
    network = DSUNet(3, width=0.1).train()
    with torch.no_grad():
        network(normalise(torch.stack([Drawn()[i].image for i in range(4)])))
        network.head.weight *= 10
    return network.eval()


def test_pixels_are_labelled_ones_at_the_masks_size_and_depend_on_the_image_alone(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdistill.engine.temperature.PIXELS", 100)
    network, options = student(), EvaluationOptions(size=25)
    few, many = (draw_pixels(network, Drawn(n), accelerator, options) for n in (2, 6))
    assert list(many) == [f"image {i}" for i in range(6)]
    for name, sample in few.items():
        assert sample.logits.shape == (100, 3)
        assert set(sample.target.tolist()) == {0, 1, 2}
        assert torch.equal(sample.logits, many[name].logits)
    monkeypatch.setattr("segdistill.engine.temperature.PIXELS", 10**6)
    [whole] = draw_pixels(network, Drawn(1), accelerator, options).values()
    assert len(whole.target) == 36 * 50  # all but the void rows


def test_many_images_are_thinned_out_and_memory_has_a_limit(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdistill.engine.temperature.IMAGES", 3)
    monkeypatch.setattr("segdistill.engine.temperature.NUMBERS", 90)
    drawn = draw_pixels(student(), Drawn(), accelerator, EvaluationOptions())
    assert list(drawn) == ["image 0", "image 2", "image 4"]
    assert {len(sample.target) for sample in drawn.values()} == {10}


def test_a_fit_is_repeatable_and_changes_neither_weights_nor_random_numbers(accelerator: Accelerator) -> None:
    network = student()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    first, second = (fit(network, Drawn(), accelerator, EvaluationOptions()) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert (first.images, first.pixels) == (6, 6 * 36 * 50)
    assert first.temperature > 2
    assert first.error_after < first.error_before / 2


def test_the_held_out_error_is_that_of_images_the_temperature_has_not_seen(accelerator: Accelerator) -> None:
    network = student()
    drawn = draw_pixels(network, Drawn(), accelerator, EvaluationOptions())
    first, second = (
        PixelSample(
            logits=torch.cat([drawn[f"image {i}"].logits for i in half]),
            target=torch.cat([drawn[f"image {i}"].target for i in half]),
        )
        for half in ((0, 1, 2), (3, 4, 5))
    )
    fitted = fit(network, Drawn(), accelerator, EvaluationOptions())
    assert fitted.held_out_before == second.error(1.0)
    assert fitted.held_out_after == second.error(fit_temperature(first))
    assert fitted.held_out_after != fitted.error_after
    alone = fit(network, Drawn(1), accelerator, EvaluationOptions())
    assert alone.held_out_before is alone.held_out_after is None
    assert alone.temperature > 2


def test_calibration_sets_the_temperature_and_scores_it_on_all_pixels(accelerator: Accelerator) -> None:
    network = TrainedNetwork(student(), LABELS, "student")
    raw = evaluate(network, Drawn(), LABELS, accelerator)
    fitted, scores = calibrate(network, Drawn(), accelerator, EvaluationOptions())
    assert network.temperature == scores["temperature"] == fitted.temperature
    assert scores["calibration_error_before"] == raw.summary()["calibration_error"]
    assert scores["calibration_error"] == pytest.approx(fitted.error_after, abs=1e-6)  # all pixels are drawn
    assert torch.tensor(scores["calibration"])[0].sum() == 6 * 36 * 50


def test_a_temperature_changes_confidences_and_no_decision() -> None:
    # Logits ln 9 and 0: a confidence of 0.9, and at temperature 2 of sqrt(9) / (sqrt(9) + 1) = 0.75.
    logits = torch.tensor([[math.log(9)] * 4, [0.0] * 4, [-99.0] * 4])[:, None]
    mask = torch.tensor([[0, 0, 0, 1]])
    plain, softer = Metrics(LABELS), Metrics(LABELS, temperature=2.0)
    for metrics in (plain, softer):
        metrics.update(logits, mask, "a")
    before, after = plain.summary(), softer.summary()
    assert before["calibration_error"] == pytest.approx(0.15, abs=1e-6)
    assert before["calibration_error_before"] is None
    assert after["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert after["calibration_error_before"] == before["calibration_error"]
    changed = {"calibration", "calibration_error", "calibration_error_before"}
    assert all(before[name] == after[name] for name in before.keys() - changed)
