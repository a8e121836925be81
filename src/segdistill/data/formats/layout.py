"""What a reader of one layout on the disk offers; `datasets.LAYOUTS` lists the readers."""

from abc import ABC, abstractmethod
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Self

from segdistill.data.labels import LabelSet, read_yaml

DESCRIPTION = "dataset.yaml"
"""Name of the file that describes a data set, in its folder."""
LABEL_KEYS = frozenset({"names", "palette", "void"})
"""What every description may hold."""


class FileList(NamedTuple):
    """The samples of one split."""

    ids: list[str]
    """A name for each, unique in the split."""
    images: list[Path]
    masks: list[Path]


class UnknownSplitError(FileNotFoundError):
    """A data set has no split of that name."""


class Layout(ABC):
    """A data set on the disk, of one layout.

    Attributes:
        root: the folder that its files are below.
        labels: what the indices of its masks mean.
        one_split: whether all splits are the same images.
    """

    root: Path
    labels: LabelSet
    one_split: bool = False

    @classmethod
    @abstractmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The data set that `folder` is or holds; None where it has another layout.

        Args:
            folder: that the user named.
            description: a dataset.yaml that lies elsewhere.

        Raises:
            FileNotFoundError: `description` does not exist.
            ValueError: the description is wrong.
        """

    @abstractmethod
    def splits(self) -> list[str]:
        """Names of the splits, sorted."""

    @abstractmethod
    def list_files(self, split: str) -> FileList:
        """The samples of a split, without opening their files.

        Raises:
            UnknownSplitError: there is no such split.
            ValueError: the description is wrong.
        """


def find_description(named: Path | None, default: Path) -> Path | None:
    """The description that a user named, else the one at its default place; None where there is none.

    Raises:
        FileNotFoundError: the one that is named does not exist.
    """
    if named is not None and not named.is_file():
        raise FileNotFoundError(f"data.layout {named} does not exist")
    path = named or default
    return path if path.is_file() else None


def read_description(path: Path, allowed: frozenset[str]) -> dict[str, Any]:
    """What a dataset.yaml holds.

    Raises:
        ValueError: it is not YAML, or has a key that is not `allowed`.
    """
    description = read_yaml(path)
    for key in description:
        if key not in allowed:
            near = get_close_matches(str(key), sorted(allowed), n=1)
            # What other tools call the void index: no spelling leads from there to it.
            near = ["void"] if str(key).startswith("ignore") else near
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"{path} has the unknown key {str(key)[:100]!r}{hint}; keys are {', '.join(sorted(allowed))}"
            )
    return description
