"""Which samples a data set holds out for validation, as its description says: a fraction, by groups."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIVISION_KEYS = frozenset({"val", "group"})
"""What says so in a description, whatever its layout."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """How samples are held out: by a hash of their ids, so that the choice stays when samples are added.

    Attributes:
        val: fraction of the samples, or of the groups; 0 holds out none.
        group: finds in an id, as its first capture group, what samples that stay together have in common;
            None where each sample is on its own.
    """

    val: float = 0.0
    group: re.Pattern[str] | None = None

    def groups(self, ids: Iterable[str]) -> list[str]:
        """The group of each sample; its id where there are no groups.

        Raises:
            ValueError: an id has no group.
        """
        if self.group is None:
            return [str(name) for name in ids]
        found = []
        for name in ids:
            match = self.group.search(str(name))
            if match is None or match[1] is None:
                raise ValueError(
                    f"group is {self.group.pattern!r}, which finds no group in the id {str(name)!r}: write "
                    "one that fits all ids, such as '^(.+)_' for what is before the last underscore"
                )
            found.append(match[1])
        return found

    def held_out(
        self, ids: Iterable[str], share: float, name: str, split: str, *, again: bool = False
    ) -> NDArray[np.bool_]:
        """Which of N samples are held out (N), whatever other samples there are.

        Args:
            ids: of the samples.
            share: the fraction.
            name: of the setting, for errors.
            split: which is divided, for errors.
            again: the samples are what is left where the fraction `val` was held out already.

        Raises:
            ValueError: that is none of them, or all.
        """
        hashes = (blake2b(group.encode(), digest_size=8).digest() for group in self.groups(ids))
        drawn = np.array([int.from_bytes(digest, "little") / 2**64 for digest in hashes])
        if again:
            drawn = (drawn - self.val) / (1 - self.val)
        chosen = drawn < share
        if chosen.all() or not chosen.any():
            raise ValueError(
                f"{name} is {share}, which holds out {'all' if chosen.all() else 'none'} of the {len(drawn)} "
                f"samples of {split!r}: above {drawn.min():.4f} it holds out one or more, up to "
                f"{drawn.max():.4f} it leaves one or more"
            )
        return chosen


def read_division(description: Mapping[str, Any], source: str) -> Division:
    """The `val` and `group` of a description in the file `source`.

    Raises:
        ValueError: one is impossible.
    """
    val, group = description.get("val", 0.0), description.get("group")
    if "val" in description and not (isinstance(val, float) and 0 < val < 1):
        raise ValueError(
            f"{source}: val is {str(val)[:100]!r}, but must be a fraction of the images, such as 0.1"
        )
    if "group" not in description:
        return Division(val=val)
    try:
        if not isinstance(group, str):
            raise TypeError("write it in quotation marks")
        pattern = re.compile(group)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{source}: group is {str(group)[:100]!r}, but must be a regular expression ({error})"
        ) from None
    if not pattern.groups:
        raise ValueError(
            f"{source}: group is {group[:100]!r}, but must have parentheses around what images of one group "
            "have in common, such as '^(.+)_'"
        )
    return Division(val=val, group=pattern)
