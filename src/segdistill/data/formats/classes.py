"""Merges classes of a data set, and leaves some out, as its description says."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segdistill.data.formats.division import DIVISION_KEYS
from segdistill.data.label_map import IGNORE, LabelMap
from segdistill.data.labels import VOID, LabelSet, class_name
from segdistill.data.masks import MappedMasks, MaskReader

CLASS_KEYS = frozenset({"classes", "bits"}) | DIVISION_KEYS
"""What every description may hold, whatever its layout.

What classes become, how many bits the images' values have, and what is held out.
"""


class ClassMap:
    """Which class each class of the files becomes.

    A merged class has the index order and the colour of the first of its members.

    Args:
        description: `classes` maps new names to lists of classes, and `ignore` to those that become void; all
            others stay.
        files: the classes of the files.
        source: the description's file.

    Attributes:
        labels: the classes that there are then.
        ignored: those of the files that become void.

    Raises:
        ValueError: a class is unknown or named twice, or fewer than two are left.
    """

    def __init__(self, description: Mapping[str, Any], files: LabelSet, source: str) -> None:
        targets: dict[str, str | None] = {name: name for name in files.names}
        named: set[str] = set()
        try:
            for target, members in read_groups(description):
                for index in files.index(members):
                    name = files.names[index]
                    if name in named:
                        raise ValueError(f"the class {name!r} is named twice in `classes`")
                    named.add(name)
                    targets[name] = target
            # A class that a new one is called like is a part of it, unless it went elsewhere.
            left = [(name, target) for name, target in targets.items() if target is not None]
            names = list(dict.fromkeys(target for _, target in left))
            absorbed = sorted(name for name in names if name in targets and targets[name] != name)
            if absorbed:
                raise ValueError(f"the new class {absorbed[0]!r} has the name of a class that goes elsewhere")
            first = [next(name for name, target in left if target == wanted) for wanted in names]
            palette = tuple(files.palette[index] for index in files.index(first))
            self.labels = LabelSet(names=tuple(names), palette=palette, void=files.void)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        indices = {name: index for index, name in enumerate(names)}
        self.table = np.full(VOID + 1, VOID, dtype=np.uint8)
        self.table[: len(files)] = [VOID if t is None else indices[t] for t in targets.values()]
        self.ignored = [name for name, target in targets.items() if target is None]
        self.identity = self.labels == files

    @classmethod
    def of_names(cls, targets: Mapping[str, str], network: LabelSet) -> "ClassMap":
        """The map that the option `map` says: class of a network -> new class, or `ignore`.

        Raises:
            ValueError: a class is unknown, or fewer than two are left.
        """
        groups: dict[str, list[str]] = {}
        for name, target in targets.items():
            groups.setdefault(target, []).append(name)
        return cls({"classes": groups}, network, "map")

    def of_logits(self, network: LabelSet) -> LabelMap:
        """Makes logits over these classes of a network's, probabilities added up; what is ignored is last."""
        names = [*self.labels.names, IGNORE]
        targets = [names[min(index, len(names) - 1)] for index in self.table[: len(network)].tolist()]
        kept = tuple(name for name in names if name in targets)
        return LabelMap(network, LabelSet(names=kept), dict(zip(network.names, targets, strict=True)))

    def reader(self, reader: MaskReader) -> MaskReader:
        """What reads the masks that another reader reads, as these classes."""
        return reader if self.identity else MappedMasks(reader, self.table, self.ignored)


def read_groups(description: Mapping[str, Any]) -> list[tuple[str | None, list[str]]]:
    """New name (None for void) and members of each group that a description has.

    Raises:
        ValueError: `classes` is of another form.
    """
    groups = description.get("classes") or {}
    if not isinstance(groups, dict):
        raise ValueError("`classes` must hold lists of classes by new name, such as vehicle: [car, truck]")
    found: list[tuple[str | None, list[str]]] = []
    for target, members in groups.items():
        if target == IGNORE and members is None:
            continue
        if not isinstance(members, list):
            raise ValueError(f"classes: {target} must be a list of class names, such as [car, truck]")
        names = [class_name(name) for name in members]
        found.append((None if target == IGNORE else class_name(target), names))
    return found
