"""The one assembly: what a run is validated and evaluated on."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from segdistill.build import build_experiment, open_evaluation, open_scored
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.yaml import to_yaml
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
    val, networks = open_scored({"run": RunFolder(tmp_path / "run")})
    assert ids(val) == held
    assert list(networks) == ["run"]


def test_the_networks_of_a_report_are_the_first_runs_teacher_and_all_students(
    run: Path, distilled: Path
) -> None:
    val, networks = open_scored({"a": RunFolder(distilled), "b": RunFolder(run)})
    assert len(val) == 4
    assert list(networks) == ["teacher", "a", "b"]
    assert not any(network.training for network in networks.values())
