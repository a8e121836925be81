"""Plain keywords as settings: `train(data="mydata", steps=5000)` beside a config object."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from os import PathLike, fspath
from typing import Any, TypeVar, get_origin, get_type_hints

from segdistill.config.values import did_you_mean
from segdistill.config.yaml import from_plain

Config = TypeVar("Config")

SHORT_NAMES = {
    "data": "data.root",
    "student": "student.spec",
    "teacher": "teacher.spec",
    "init": "student.init",
    "class": "class_name",
    "layout": "data.layout",
}
"""Short names of settings, here and on the command line; that of a group takes a mapping here, too."""


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
    _set_all(cls, plain, keywords)
    return from_plain(cls, plain)


def is_given(cls: Any, keywords: Mapping[str, Any], name: str) -> bool:
    """Whether keywords, as `with_keywords` takes them, set the setting `name` of a group, `teacher.spec`."""
    plain = asdict(cls())
    group, _, name = name.partition(".")
    before = plain[group][name] = object()
    _set_all(cls, plain, keywords)
    return plain[group][name] is not before


def _set_all(cls: Any, plain: dict[str, Any], keywords: Mapping[str, Any]) -> None:
    """Set what keywords, short names among them, name of a dataclass that `asdict` has made `plain`."""
    for name, value in keywords.items():
        full = SHORT_NAMES.get(name, name)
        is_group = full.startswith(f"{name}.") and (isinstance(value, Mapping) or is_dataclass(value))
        _set(cls, plain, name if is_group else full, value)


def _set(cls: Any, plain: dict[str, Any], name: str, value: Any, prefix: str = "") -> None:
    """Set a field, `group.field` or `mapping.key` too, of a dataclass that `asdict` has made `plain`."""
    name, _, rest = str(name).partition(".")
    if name not in plain:
        hint = did_you_mean(name, [field.name for field in fields(cls)])
        raise TypeError(f"{prefix}{name} is no setting of {cls.__name__}{hint}")
    kind = get_type_hints(cls)[name]
    if not (isinstance(kind, type) and is_dataclass(kind)):
        plain_value = fspath(value) if isinstance(value, PathLike) else value
        if not rest:
            plain[name] = plain_value
        elif get_origin(kind) is dict:
            plain[name][rest] = plain_value
        else:
            raise TypeError(f"{prefix}{name} is one setting, not a group: there is no {prefix}{name}.{rest}")
    elif rest:
        _set(kind, plain[name], rest, value, f"{prefix}{name}.")
    elif is_dataclass(value) and not isinstance(value, type):
        plain[name] = asdict(value)
    elif isinstance(value, Mapping):
        for field, one in value.items():
            _set(kind, plain[name], field, one, f"{prefix}{name}.")
    else:
        raise TypeError(f"{prefix}{name} is {value!r}, but must be a mapping or {kind.__name__}")
