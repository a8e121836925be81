"""The batches as the loop sees them: mixed on the device, by nothing but seed, step, part and process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from segdistill.build import build_experiment
from segdistill.config.train import AugmentConfig, OptimConfig, TrainConfig
from segdistill.data.batch import Batch
from segdistill.data.datasets import open_dataset
from segdistill.data.loaders import training_batches
from segdistill.engine.experiment import Experiment
from segdistill.engine.trainer import device_batches

pytestmark = pytest.mark.unit


def experiment(config: TrainConfig) -> Experiment:
    return build_experiment(config)


def drawn(config: TrainConfig, accelerator: Accelerator, steps: range) -> list[Batch]:
    return list(device_batches(experiment(config), accelerator, steps))


def test_the_defaults_move_batches_to_the_device_and_change_nothing(
    configure: Any, accelerator: Accelerator, tmp_path: Path
) -> None:
    config = configure(tmp_path)
    samples = open_dataset(config.data.root, "train")
    for batch, plain in zip(
        drawn(config, accelerator, range(2)), training_batches(samples, config, range(2)), strict=True
    ):
        expected = plain.to(torch.device("cpu")).normalized()
        assert torch.equal(batch.image, expected.image)
        assert torch.equal(batch.mask, expected.mask)
        assert torch.equal(batch.valid, expected.valid)
        assert batch.lam is batch.target_b is None


def test_mixing_is_the_same_after_a_resume(configure: Any, accelerator: Accelerator, tmp_path: Path) -> None:
    augment = AugmentConfig(mixup=0.3, cutmix=0.3, copy_paste=0.3)
    config = configure(tmp_path, augment=augment, optim=OptimConfig(accumulate=2), steps=8)
    whole, rest = (drawn(config, accelerator, range(first, 8)) for first in (0, 5))
    assert len(whole) == 16
    assert len({batch.lam is None for batch in whole}) == 2
    for one, two in zip(whole[10:], rest, strict=True):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.mask, two.mask)
        assert (one.lam is None) == (two.lam is None)
        assert one.lam is None or (two.lam is not None and torch.equal(one.lam, two.lam))


def test_two_parts_of_a_step_are_mixed_by_chances_of_their_own(
    configure: Any, accelerator: Accelerator, tmp_path: Path
) -> None:
    optim = OptimConfig(accumulate=2)
    config = configure(tmp_path, augment=AugmentConfig(mixup=1.0), optim=optim)
    shares = [batch.lam for batch in drawn(config, accelerator, range(2))]
    assert all(share is not None and len(share) == 2 for share in shares)
    assert len({tuple(share.tolist()) for share in shares if share is not None}) == 4


def test_crops_grow_with_the_share_of_all_steps(
    configure: Any, accelerator: Accelerator, tmp_path: Path
) -> None:
    config = configure(tmp_path, progressive=[(0.5, 16)], steps=6)
    assert [batch.image.shape[-1] for batch in drawn(config, accelerator, range(1, 5))] == [16, 16, 32, 32]
