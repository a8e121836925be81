"""Batches: which images form one, which logits they get, and what happens to the rest when one fails."""

import threading
import time
from concurrent.futures import Future

import pytest
import torch
from torch import Tensor, nn

from segdistill.data.labels import LabelSet
from segdistill.data.transforms import normalise
from segdistill.models.streams import sharing
from segdistill.models.trained import TrainedNetwork
from segdistill.serving.batching import Batcher, largest_batch

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")
LABELS = LabelSet(names=("nothing", "something"))


class Gated(nn.Module):
    """Logits are the image's first two channels, once its gate is open; fails on images of one column."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered = threading.Event(), threading.Event()
        self.batches: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.entered.set()
        assert self.gate.wait(20)
        self.batches.append(tuple(image.shape))
        if image.shape[3] == 1:
            raise RuntimeError("cannot take one column")
        return image[:, :2]


def image(value: int, height: int = 4, width: int = 6) -> Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


@pytest.fixture
def module() -> Gated:
    return Gated()


@pytest.fixture
def network(module: Gated) -> TrainedNetwork:
    return TrainedNetwork(module, LABELS, "gated").eval()


def occupied(batcher: Batcher, module: Gated) -> Future[Tensor]:
    """Let the network wait with one image, so that those submitted after it queue up."""
    first = batcher.submit(image(0, 2, 2))
    assert module.entered.wait(20)
    return first


def test_images_of_one_size_form_a_batch(network: TrainedNetwork, module: Gated) -> None:
    sizes: list[int] = []
    batcher = Batcher(network, CPU, max_batch=3, wait_s=0.001, observe=sizes.append)
    occupied(batcher, module)
    wide = [batcher.submit(image(value)) for value in (10, 20)]
    tall = batcher.submit(image(30, 6, 4))
    wide += [batcher.submit(image(value)) for value in (40, 50)]
    assert len(batcher) == 5
    module.gate.set()
    for answer, value in zip([*wide, tall], (10, 20, 40, 50, 30), strict=True):
        expected = normalise(image(value, 6, 4) if value == 30 else image(value))[:2]
        torch.testing.assert_close(answer.result(20), expected)
    batcher.close()
    assert module.batches == [(1, 3, 2, 2), (3, 3, 4, 6), (1, 3, 6, 4), (1, 3, 4, 6)]
    assert sizes == [1, 3, 1, 1]


def test_an_image_waits_for_others_but_not_long(network: TrainedNetwork, module: Gated) -> None:
    module.gate.set()
    batcher = Batcher(network, CPU, max_batch=2, wait_s=0.2)
    started = time.monotonic()
    lonely = batcher.submit(image(1))
    lonely.result(20)
    assert 0.2 <= time.monotonic() - started < 10
    started = time.monotonic()
    pair = [batcher.submit(image(1)) for _ in range(2)]
    for answer in pair:
        answer.result(20)
    assert time.monotonic() - started < 0.15  # a full batch does not wait
    batcher.close()
    assert module.batches == [(1, 3, 4, 6), (2, 3, 4, 6)]


def test_cancelled_images_are_not_computed(network: TrainedNetwork, module: Gated) -> None:
    batcher = Batcher(network, CPU, wait_s=0)
    occupied(batcher, module)
    cancelled, kept = batcher.submit(image(1)), batcher.submit(image(2))
    assert cancelled.cancel()
    module.gate.set()
    torch.testing.assert_close(kept.result(20), normalise(image(2))[:2])
    batcher.close()
    assert module.batches[1:] == [(1, 3, 4, 6)]


def test_a_failure_is_that_of_its_batch_alone(
    network: TrainedNetwork, module: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    module.gate.set()
    batcher = Batcher(network, CPU, wait_s=0)
    with pytest.raises(RuntimeError, match="cannot take one column"):
        batcher.submit(image(1, 4, 1)).result(20)
    assert batcher.submit(image(1)).result(20).shape == (2, 4, 6)
    batcher.close()
    assert "the network failed" in caplog.text


def test_closing_finishes_what_was_submitted(network: TrainedNetwork, module: Gated) -> None:
    batcher = Batcher(network, CPU, max_batch=2, wait_s=60)
    occupied_by_waiting = [batcher.submit(image(value)) for value in range(5)]
    module.gate.set()
    batcher.close()
    assert all(answer.done() and not answer.exception() for answer in occupied_by_waiting)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(image(1))


def test_batches_at_a_time_share_the_cores_and_one_alone_has_them_all() -> None:
    class Sharing(nn.Module):
        """Notes how many share the cores; images of two columns wait until there are two of them."""

        def __init__(self) -> None:
            super().__init__()
            self.meeting, self.shares = threading.Barrier(2), []

        def forward(self, image: Tensor) -> Tensor:
            self.shares.append(sharing())
            if image.shape[3] == 2:
                self.meeting.wait(20)
            return image[:, :2]

    module = Sharing()
    network = TrainedNetwork(module, LABELS, "sharing").eval()
    batcher = Batcher(network, CPU, max_batch=1, streams=2, wait_s=60)
    assert batcher.submit(image(1)).result(20).shape == (2, 4, 6)  # a full batch of one waits for no other
    assert module.shares == [1]
    pair = [batcher.submit(image(value, 2, 2)) for value in (1, 2)]
    for answer, value in zip(pair, (1, 2), strict=True):
        torch.testing.assert_close(answer.result(20), normalise(image(value, 2, 2))[:2])
    assert sorted(module.shares[1:]) in ([1, 2], [2, 2])
    assert batcher.alive
    batcher.close()
    assert not batcher.alive


def test_a_size_that_waits_for_more_does_not_hold_up_another(network: TrainedNetwork, module: Gated) -> None:
    module.gate.set()
    batcher = Batcher(network, CPU, max_batch=2, streams=2, wait_s=0.3)
    waiting = batcher.submit(image(1))
    pair = [batcher.submit(image(value)) for value in (2, 3)]
    assert [answer.result(20).shape for answer in (waiting, *pair)] == [(2, 4, 6)] * 3
    batcher.close()
    assert sorted(shape[0] for shape in module.batches) == [1, 2]


def test_networks_of_single_images_are_not_given_batches(network: TrainedNetwork, module: Gated) -> None:
    class Single(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            if len(image) != 1:
                raise ValueError("one at a time")
            return image[:, :2]

    module.gate.set()
    assert largest_batch(TrainedNetwork(Single(), LABELS, "single").eval(), CPU, 8) == 1
    assert largest_batch(network, CPU, 8) == 8
    assert largest_batch(network, CPU, 1) == 1
