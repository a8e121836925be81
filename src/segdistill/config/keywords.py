"""Plain keywords as settings: `train(data="mydata", steps=5000)` beside a config object."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from os import PathLike, fspath
from typing import Any, TypeVar, get_type_hints

from segdistill.config.values import did_you_mean
from segdistill.config.yaml import from_plain

Config = TypeVar("Config")

MAIN_FIELD = {"data": "root", "student": "spec", "teacher": "spec"}
"""Of a group of settings, the field that a value stands for which is no mapping: as on the command line."""
SHORT = {"init": "student.init"}
"""Keywords that stand for a setting of another name."""


def with_keywords(cls: type[Config], config: Config | None, keywords: Mapping[str, Any]) -> Config:
    """A config object, the defaults where there is none, with what keywords set.

    Args:
        cls: the config dataclass.
        config: what the keywords change; they win.
        keywords: settings by name. A group of settings takes a mapping (`optim={"lr": 1e-3}`), a config
            object, or what its command-line option takes (`data="mydata"`, `teacher="runs/a"`).

    Raises:
        TypeError: a keyword is no setting.
        ValueError: a value is impossible.
    """
    if config is not None and not isinstance(config, cls):
        raise TypeError(f"config is {type(config).__name__}, but must be {cls.__name__} or keywords")
    config = cls() if config is None else config
    if not keywords:
        return config
    plain = asdict(config)  # type: ignore[call-overload]
    for name, value in keywords.items():
        _set(cls, plain, SHORT.get(name, name), value)
    return from_plain(cls, plain)


def _set(cls: Any, plain: dict[str, Any], name: str, value: Any, prefix: str = "") -> None:
    """Set a field, `group.field` too, of a dataclass that `asdict` has made `plain`."""
    name, _, rest = name.partition(".")
    if name not in plain:
        hint = did_you_mean(name, [field.name for field in fields(cls)])
        raise TypeError(f"{prefix}{name} is no setting of {cls.__name__}{hint}")
    kind = get_type_hints(cls)[name]
    if not (isinstance(kind, type) and is_dataclass(kind)):
        plain[name] = fspath(value) if isinstance(value, PathLike) else value
    elif rest:
        _set(kind, plain[name], rest, value, f"{prefix}{name}.")
    elif is_dataclass(value) and not isinstance(value, type):
        plain[name] = asdict(value)
    elif isinstance(value, Mapping):
        for field, one in value.items():
            _set(kind, plain[name], field, one, f"{prefix}{name}.")
    elif name in MAIN_FIELD:
        _set(kind, plain[name], MAIN_FIELD[name], value, f"{prefix}{name}.")
    else:
        raise TypeError(f"{prefix}{name} is {value!r}, but must be a mapping or {kind.__name__}")
