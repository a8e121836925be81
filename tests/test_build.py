"""The one assembly: what settings name is what is opened, validated and evaluated on."""

import shutil
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from segdistill.build import build_experiment, build_recorded, open_evaluation, open_scored, open_teacher
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.train import TeacherConfig, TrainConfig
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


def test_several_teachers_are_opened_and_recorded(
    configure: Any, run: Path, distilled: Path, tmp_path: Path
) -> None:
    teacher = TeacherConfig(
        spec=[str(run), str(distilled)], mix=[1, 3], scales=[1, 2], flip=True, output_stride=8
    )
    experiment = build_experiment(configure(tmp_path / "out", teacher=teacher))
    assert experiment.teacher is not None
    assert [network.spec for network in experiment.teacher.members] == [str(run), str(distilled)]
    assert [network.output_stride for network in experiment.teacher.members] == [8, 8]
    assert experiment.summary.endswith(f"distilled from {run} and {distilled}")
    recorded = experiment.card.teacher
    assert recorded is not None
    assert recorded["spec"] == [str(run), str(distilled)]
    assert (recorded["mix"], recorded["scales"], recorded["flip"]) == ([0.25, 0.75], [1, 2], True)
    assert open_teacher(TeacherConfig(), experiment.labels) is None


def test_code_that_only_a_run_names_as_second_teacher_is_not_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGDISTILL_TRUST", raising=False)
    folder = RunFolder(shutil.copytree(run, tmp_path / "run"))
    config = load(TrainConfig, folder.config_file)
    evil = f"{tmp_path}/evil.py:build"
    folder.config_file.write_text(to_yaml(replace(config, teacher=TeacherConfig(spec=[str(run), evil]))))
    for opens in (build_recorded, lambda folder: open_scored({"a": folder})):
        with pytest.raises(ValueError, match=r"evil\.py:build.*SEGDISTILL_TRUST=1"):
            opens(folder)
