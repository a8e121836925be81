"""What a report of a bug needs: versions, platform, devices, and which extras are installed."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

import torch
from packaging.requirements import Requirement

from segdistill.engine.runtime import processor_name

DISTRIBUTION = "segdistill"


def about() -> dict[str, Any]:
    """Versions of the packages that segdistill needs, platform, devices, and its extras.

    Returns:
        `segdistill`, `python` and `platform`; `packages`: versions by name; `devices`: names by kind;
        `cuda`: the version that PyTorch was built for, or None; `threads` of PyTorch; `extras`: by name, the
        packages that are missing for it, none where it is installed.
    """
    needed = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    core = [need.name for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return {
        "segdistill": version(DISTRIBUTION),
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "packages": {name: installed_version(name) for name in core},
        "devices": find_devices(),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "extras": {
            extra: _missing(needed, extra)
            for extra in sorted(metadata(DISTRIBUTION).get_all("Provides-Extra", []))
        },
    }


def installed_version(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def find_devices() -> dict[str, list[str]]:
    """The devices that PyTorch finds, names by kind."""
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = {"cpu": [processor_name()], "cuda": cuda}
    return found | {"mps": ["Apple GPU"] if torch.backends.mps.is_available() else []}


def _missing(needed: list[Requirement], extra: str) -> list[str]:
    """What of an extra is not installed, or has a version that is too low or too high."""
    missing = []
    for need in needed:
        if (
            need.marker is None
            or need.marker.evaluate({"extra": ""})
            or not need.marker.evaluate({"extra": extra})
        ):
            continue
        if need.name == DISTRIBUTION:  # an extra of other extras
            missing += [name for other in sorted(need.extras) for name in _missing(needed, other)]
            continue
        found = installed_version(need.name)
        if found is None or not need.specifier.contains(found, prereleases=True):
            missing.append(need.name if found is None else f"{need.name}{need.specifier} (there is {found})")
    return missing


def about_lines(record: dict[str, Any]) -> list[str]:
    """The record for people, one line each."""
    packages = ", ".join(f"{name} {found or 'missing'}" for name, found in record["packages"].items())
    devices = ", ".join(f"{kind} {name}" for kind, names in record["devices"].items() for name in names)
    lines = [
        f"segdistill {record['segdistill']}, Python {record['python']}, {record['platform']}",
        f"packages: {packages}",
        f"devices: {devices}; CUDA {record['cuda'] or 'not built in'}; {record['threads']} threads",
    ]
    for extra, missing in record["extras"].items():
        lines.append(f"extra {extra}: {'missing ' + ', '.join(missing) if missing else 'installed'}")
    return lines
