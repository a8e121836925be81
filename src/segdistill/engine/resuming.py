"""The settings of a training that is resumed without a file of them: those that its run folder keeps."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segdistill.config.keywords import is_given, with_keywords
from segdistill.config.naming import setting
from segdistill.config.paths import SETTINGS
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load


def resumed_config(given: Mapping[str, Any]) -> TrainConfig:
    """The settings of the run in `out`, with those that are given besides.

    Where there is no run, the given ones alone: `segdistill.config.paths` refuses to resume it.

    Args:
        given: settings by name, see `with_keywords`; they win over those of the run, and `RunFolder.check`
            compares them with it.

    Raises:
        TypeError: a name is no setting.
        ValueError: the settings of the run are damaged or name code that nobody has said to trust, or a value
            is impossible.
    """
    out = str(given.get("out", TrainConfig.out))
    file = Path(out) / SETTINGS
    if not file.is_file():
        return with_keywords(TrainConfig, None, given)
    config = with_keywords(TrainConfig, replace(load(TrainConfig, file), out=out), given)
    if not is_given(TrainConfig, given, "student.spec"):
        _require_trust("student", config.student.spec, file)
    if not is_given(TrainConfig, given, "teacher.spec"):
        for spec in config.teacher.specs:
            _require_trust("teacher", spec, file)
    return config


def _require_trust(name: str, spec: str, file: Path) -> None:
    """Refuse to run code only because a run folder, which may be a stranger's, names it."""
    from segdistill.models.spec import require_trust  # which loads PyTorch

    try:
        require_trust(spec, file)
    except ValueError as error:
        raise ValueError(f"{error}, or name it yourself with {setting(name)}") from None
