"""Spec strings: every way to name a network, parsed here and nowhere else."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segdistill.config.paths import HUB
from segdistill.config.values import did_you_mean
from segdistill.models.file_formats import FORMATS, format_of
from segdistill.models.hub_runs import find_run, pinned

Kind = Literal["run", "file", "builtin", "torchvision", "timm", "smp", "hf", "function"]

BUILTIN = ("dsunet",)
TORCHVISION = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A parsed spec string.

    Attributes:
        text: as it was written; of a run on the hub with the commit that is used.
        kind: what it names.
        path: a run folder (where a run of the hub was downloaded to), an exported file, or the Python file of
            a function.
        module: the Python module of a function that is in no file.
        function: name of the function.
        architecture: a built-in name, torchvision's name, a library's architecture, or Hugging Face's name or
            folder.
        encoder: a library's encoder; empty for its default.
    """

    text: str
    kind: Kind
    path: Path | None = None
    module: str = ""
    function: str = ""
    architecture: str = ""
    encoder: str = ""

    @property
    def is_code(self) -> bool:
        """Whether opening it runs code that the spec names."""
        return self.kind == "function"


@dataclass(frozen=True)
class SpecKind:
    """One way to name a network.

    Attributes:
        form: what it looks like, for error messages.
        parse: the parsed spec, or None where the text has another form.
        trained: names a trained network with its weights, and no architecture to build.
    """

    form: str
    parse: Callable[[str], NetworkSpec | None]
    trained: bool = False


def _parse_run(text: str) -> NetworkSpec | None:
    folder = find_run(text)
    return None if folder is None else NetworkSpec(text=pinned(text), kind="run", path=folder)


def _parse_file(text: str) -> NetworkSpec | None:
    path = Path(text)
    return None if format_of(path) is None else NetworkSpec(text=text, kind="file", path=path)


def _parse_builtin(text: str) -> NetworkSpec | None:
    return NetworkSpec(text=text, kind="builtin", architecture=text) if text in BUILTIN else None


def _parse_torchvision(text: str) -> NetworkSpec | None:
    return NetworkSpec(text=text, kind="torchvision", architecture=text) if text in TORCHVISION else None


def _parse_timm(text: str) -> NetworkSpec | None:
    prefix, _, encoder = text.partition(":")
    return NetworkSpec(text=text, kind="timm", encoder=encoder) if prefix == "timm" else None


def _parse_smp(text: str) -> NetworkSpec | None:
    prefix, _, name = text.partition(":")
    if prefix != "smp":
        return None
    architecture, _, encoder = name.partition("/")
    return NetworkSpec(text=text, kind="smp", architecture=architecture, encoder=encoder)


def _parse_hf(text: str) -> NetworkSpec | None:
    source = text.removeprefix(HUB)
    return NetworkSpec(text=text, kind="hf", architecture=source) if text.startswith(HUB) and source else None


def _parse_function(text: str) -> NetworkSpec | None:
    source, _, function = text.rpartition(":")
    if source.endswith(".py"):
        return NetworkSpec(text=text, kind="function", path=Path(source), function=function)
    if not source or source.startswith(".") or text.startswith(HUB):
        return None
    return NetworkSpec(text=text, kind="function", module=source, function=function)


KINDS: dict[Kind, SpecKind] = {
    "run": SpecKind("a run folder, hf:ORG/NAME of a pushed one", _parse_run, trained=True),
    "file": SpecKind(
        f"an exported file ({', '.join(form.suffix for form in FORMATS.values())})", _parse_file, trained=True
    ),
    "builtin": SpecKind(f"a built-in ({', '.join(BUILTIN)})", _parse_builtin),
    "torchvision": SpecKind(f"one of torchvision's ({', '.join(TORCHVISION)})", _parse_torchvision),
    "timm": SpecKind("timm:ENCODER", _parse_timm),
    "smp": SpecKind("smp:ARCHITECTURE/ENCODER", _parse_smp),
    "hf": SpecKind("hf:ORG/NAME or hf:FOLDER", _parse_hf),
    "function": SpecKind("path/to/file.py:function or package.module:function", _parse_function),
}
"""In the order in which they are tried; what builds or opens each is in `zoo.py` and `trained.py`."""

CHOICES = "A network is " + ", ".join(
    kind.form for kind in sorted(KINDS.values(), key=lambda kind: kind.trained)
)


def parse_spec(text: str) -> NetworkSpec:
    """What a spec string names.

    Raises:
        ValueError: it names nothing.
    """
    for kind in KINDS.values():
        if (spec := kind.parse(text)) is not None:
            return spec
    if Path(text).is_dir():
        return NetworkSpec(text=text, kind="run", path=Path(text))  # whose missing model.json is then named
    raise unknown_spec(text)


def parse_architecture(text: str) -> NetworkSpec:
    """What a spec string names that can be built with fresh weights; no folder or file of that name counts.

    Raises:
        ValueError: it names nothing of the kind.
    """
    for kind in KINDS.values():
        if not kind.trained and (spec := kind.parse(text)) is not None:
            return spec
    raise unknown_spec(text)


def display_name(text: str) -> str:
    """What to call a network or a data set where others read it: of a path its last part.

    `../nets/mine.py:build` becomes `mine.py:build`; names of libraries and of the hub stay as they are.
    """
    prefix, colon, name = text.partition(":")
    if colon and prefix in {"timm", "smp"}:
        return text
    if text.startswith(HUB):
        is_path = Path(name).is_dir() or name.startswith(("/", ".", "~")) or len(Path(name).parts) > 2
        return HUB + Path(name).resolve().name if is_path else text
    return Path(text).resolve().name


def unknown_spec(text: str) -> ValueError:
    """The error for a spec that names nothing, with the nearest name that does."""
    hint = did_you_mean(text, (*BUILTIN, *TORCHVISION)) or "."
    return ValueError(f"there is no network {text!r}{hint} {CHOICES}")


def require_trust(text: str, source: Path) -> None:
    """Refuse to run code only because a file names it, whoever made that file.

    Args:
        text: the spec of a network, as `source` names it.
        source: a model.json or config.yaml, which may be a stranger's.

    Raises:
        ValueError: the spec names a function that was not called in this process before, and the environment
            variable `SEGDISTILL_TRUST` is not 1.
    """
    try:
        code = parse_architecture(text).is_code  # also where an exported file has this name
    except ValueError:
        return
    if code and text not in _called and os.environ.get("SEGDISTILL_TRUST") != "1":
        raise ValueError(
            f"{source} names the network {text!r}, whose code would run with your rights: if you trust it, "
            "set the environment variable SEGDISTILL_TRUST=1"
        )


_called: set[str] = set()
"""Specs of the functions that were called in this process: its user named them."""


def remember_call(spec: NetworkSpec) -> None:
    """From now on the function of `spec` counts as trusted in this process."""
    _called.add(spec.text)
