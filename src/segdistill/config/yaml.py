"""Settings as YAML: written into a run folder, and read back to an equal dataclass."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from segdistill.config.groups import check_keys, group_types
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


def from_plain(cls: type[Config], settings: dict[str, Any], prefix: str = "") -> Config:
    """A config dataclass from mappings, lists, texts and numbers.

    Args:
        cls: the dataclass.
        settings: by name.
        prefix: the group that they are, `optim.`, for errors.

    Raises:
        ValueError: a key is unknown, or a value impossible.
    """
    check_keys(cls, settings, prefix)
    plain: type = cls  # mypy takes type[Config] for something that cannot be a key
    parser = _parser(plain)
    try:
        config = parser.instantiate(parser.parse_object({"config": settings})).config
    except ArgumentError as error:
        text = " ".join(str(error).split()).replace('Parser key "config.', f'Setting "{prefix}')
        raise ValueError(text) from None
    assert isinstance(config, cls)
    return config


def read_groups(config: Any) -> None:
    """Turn the groups that a config dataclass got as mappings into their dataclasses, in its `__post_init__`.

    Raises:
        ValueError: a key is unknown, a value impossible, or a group neither a mapping nor its dataclass.
    """
    cls: Any = type(config)  # see `from_plain`
    for name, kind in group_types(cls).items():
        value = getattr(config, name)
        if isinstance(value, Mapping):
            plain = {key: fspath(one) if isinstance(one, PathLike) else one for key, one in value.items()}
            object.__setattr__(config, name, from_plain(kind, plain, f"{name}."))  # `config` is frozen
        else:
            example = f"{{{fields(kind)[0].name!r}: ...}}"
            require(isinstance(value, kind), name, value, f"a mapping such as {example}, or {kind.__name__}")


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
