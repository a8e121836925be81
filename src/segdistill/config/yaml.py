"""Settings as YAML: written into a run folder, and read back to an equal dataclass."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from segdistill.config.values import require
from segdistill.files import read_plain_yaml

Config = TypeVar("Config")


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML, which `load` and `--config` read back to an equal one."""
    plain = json.loads(json.dumps(asdict(config)))  # tuples become lists: YAML's safe form has no tuples
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def load(cls: type[Config], path: Path) -> Config:
    """Read a config dataclass from YAML.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: a key is unknown, or a value impossible.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a run folder keeps its settings in config.yaml")
    try:
        settings = read_plain_yaml(path)
        require(isinstance(settings, dict), "the file", settings, "a mapping of settings")
        return from_plain(cls, settings)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a valid {cls.__name__}: {' '.join(str(error).split())}") from None


def from_plain(cls: type[Config], settings: dict[str, Any]) -> Config:
    """A config dataclass from mappings, lists, texts and numbers.

    Raises:
        ValueError: a key is unknown, or a value impossible.
    """
    plain: type = cls  # mypy takes type[Config] for something that cannot be a key
    parser = _parser(plain)
    try:
        config = parser.instantiate(parser.parse_object({"config": settings})).config
    except ArgumentError as error:
        text = " ".join(str(error).split()).replace('Parser key "config.', 'Setting "')
        raise ValueError(text) from None
    assert isinstance(config, cls)
    return config


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """`key before -> after` for each setting that differs between two nested mappings."""
    lines = []
    for key, old in before.items():
        new = after.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and key != "map":
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} {old} -> {new}")
    return lines


@cache
def _parser(cls: Any) -> ArgumentParser:
    """The parser of a config dataclass; making one takes a tenth of a second and more."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "config")
    return parser
