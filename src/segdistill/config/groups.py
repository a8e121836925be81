"""Groups of settings: which keys they have, and what is wrong with one that they lack."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from segdistill.config.values import did_you_mean


@cache
def group_types(cls: Any) -> dict[str, type]:
    """The settings of a config dataclass that are groups, by name, with the dataclass of each."""
    types = get_type_hints(cls)
    kinds = {setting.name: types[setting.name] for setting in fields(cls)}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and is_dataclass(kind)}


def unknown_setting(cls: Any, key: str, prefix: str = "") -> str:
    """What is wrong with a key of settings, with the one that was meant; empty where it is one.

    Args:
        cls: the config dataclass.
        key: `size`, or `optim.lr`.
        prefix: the groups that `cls` is in, `optim.`, for the text.
    """
    name, _, rest = key.partition(".")
    names = [setting.name for setting in fields(cls)]
    if name not in names:
        return f"{prefix}{name} is no setting{did_you_mean(name, names, prefix=prefix)}"
    kind = group_types(cls).get(name)
    return unknown_setting(kind, rest, f"{prefix}{name}.") if kind and rest else ""


def check_keys(cls: Any, settings: Mapping[Any, Any], prefix: str = "") -> None:
    """Refuse keys that a config dataclass lacks, and what is no group where it has one.

    Args:
        cls: the config dataclass.
        settings: as a YAML file has them.
        prefix: the groups that `cls` is in, `optim.`, for errors.

    Raises:
        ValueError: a key is unknown, or the value of a group is no mapping.
    """
    for key, value in settings.items():
        wrong = unknown_setting(cls, str(key), prefix)
        if wrong:
            raise ValueError(wrong)
        kind = group_types(cls).get(key)
        if kind is not None:
            check_group(f"{prefix}{key}", value)
            check_keys(kind, value, f"{prefix}{key}.")


def check_group(name: str, value: object) -> None:
    """Raise a `ValueError` unless the value of a group of settings is a mapping."""
    if value is None:
        raise ValueError(f"{name} is null, but is a group of settings: leave it out for the defaults")
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}, but is a group of settings: a mapping of its names to values")
