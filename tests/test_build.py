"""The one assembly: what settings name is what is opened, validated and evaluated on."""

import shutil
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from segdistill.build import build_experiment, open_evaluation, open_scored
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load, to_yaml
from segdistill.data.samples import Samples
from segdistill.engine.run_folder import RunFolder

pytestmark = pytest.mark.integration


def ids(samples: Samples) -> set[str]:
    return {samples.files(index).id for index in range(len(samples))}


def test_a_run_is_evaluated_on_what_it_held_out(configure: Any, run: Path, tmp_path: Path) -> None:
    config = configure(tmp_path / "run")
    config = replace(config, data=replace(config.data, val_share=0.3))
    experiment = build_experiment(config)
    held = ids(experiment.val)
    assert held
    assert not held & ids(experiment.train)
    assert len(held | ids(experiment.train)) == 12
    copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
    assert ids(open_evaluation(str(tmp_path / "run"), EvaluationDataConfig())) == held
    assert len(open_evaluation(str(tmp_path / "run"), EvaluationDataConfig(split="train"))) == 12


def test_what_a_run_was_scored_on_is_opened_with_its_networks(run: Path, distilled: Path) -> None:
    val, networks = open_scored({"a": RunFolder(distilled), "b": RunFolder(run)})
    assert len(val) == 4
    assert list(networks) == ["teacher", "a", "b"]
    assert not any(network.training for network in networks.values())


def test_images_that_a_run_held_out_are_those_it_was_scored_on(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(run, tmp_path / "run"))
    config = load(TrainConfig, folder.config_file)
    folder.config_file.write_text(to_yaml(replace(config, data=replace(config.data, val_share=0.5))))
    val, _ = open_scored({"a": folder})
    training = (Path(config.data.root) / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").read_text()
    assert 0 < len(val) < 12
    assert {str(name) for name in val.ids} < set(training.split())
