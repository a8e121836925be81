"""A tiny search: one narrow student of the drawn data set in four input sizes, a rung and the full recipe."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from forked_search import Settings

from segdistill.config.search import SearchConfig
from segdistill.config.train import OptimConfig, TeacherConfig
from segdistill.config.yaml import to_yaml
from segdistill.searching.folder import SearchFolder, Session
from segdistill.searching.planning import make_plan
from segdistill.searching.recipes import read_recipe
from segdistill.searching.search import find_candidates, measure_candidates


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory, configure: Any, run: Path) -> Settings:
    """Makes the settings of a tiny search into a folder; fields can be replaced."""
    root = tmp_path_factory.mktemp("search")
    recipe = configure(root / "unused", steps=8, evaluate_every=8, optim=OptimConfig(lr=2e-2))
    teacher = TeacherConfig(spec=str(run), cache=str(root / "cache"))
    (root / "recipe.yaml").write_text(to_yaml(replace(recipe, teacher=teacher)))
    (root / "candidates.yaml").write_text(
        "- {spec: dsunet, width: 0.1, stride: 4, lr: 0.02, sizes: [16, 32, 48, 64, 80]}\n"
    )

    def make(out: Path, **changes: Any) -> SearchConfig:
        given: dict[str, Any] = {
            "latency": "10s", "size": 32, "sizes": [1.0], "recipe": str(root / "recipe.yaml"), "families": [],
            "candidates": str(root / "candidates.yaml"), "steps": 8, "choose_share": 0.3, "repeats": 3,
            "jobs": 2, "device": "cpu", "max_loss": 50.0, "out": str(out),
        }  # fmt: skip
        return SearchConfig(**given | changes)

    return make


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """The folder of a search whose candidates were exported and measured."""
    config = settings(tmp_path_factory.mktemp("searches") / "measured")
    folder = SearchFolder(config.out)
    folder.prepare(config, read_recipe(config))
    session = Session(folder)
    find_candidates(folder, session)
    assert measure_candidates(folder, session, None)
    return folder.path


@pytest.fixture
def planned(measured: Path, tmp_path: Path, settings: Settings) -> SearchFolder:
    """A copy of it in which nothing is trained yet, but who is."""
    folder = SearchFolder(shutil.copytree(measured, tmp_path / "search"))
    make_plan(folder, Session(folder), settings(folder.path))
    return folder
