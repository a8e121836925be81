"""The one assembly: what settings name is what is opened."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from segdistill.build import open_scored
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load, to_yaml
from segdistill.engine.run_folder import RunFolder

pytestmark = pytest.mark.integration


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
