"""Maps between two label sets, by name: logits over one become logits over the other."""

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from segdistill.config.naming import setting
from segdistill.data.labels import LabelSet

if TYPE_CHECKING:
    from torch import Tensor

ALL_OTHERS = "*"
"""In a map of names: every class that is not named."""

IGNORE = "ignore"
"""In a map of names: no class; the probability of what goes there is left out, the rest renormalised."""

ABSENT = 30.0
"""How far the logit of a class without a source lies below all others together: a probability of 1e-13."""

SYNONYMS = (
    ("sidewalk", "pavement", "footpath"),
    ("person", "pedestrian", "people", "human"),
    ("vegetation", "tree", "trees", "plant"),
    ("rider", "bicyclist", "cyclist"),
    ("traffic sign", "sign-symbol", "signsymbol", "sign"),
    ("road", "street"),
    ("car", "automobile"),
    ("motorcycle", "motorbike"),
    ("bicycle", "bike"),
    ("airplane", "aeroplane", "plane"),
    ("couch", "sofa"),
    ("tv", "tvmonitor", "television"),
    ("dining table", "diningtable", "table"),
    ("potted plant", "pottedplant"),
    ("sheep", "lamb"),
    ("background", "__background__", "other", "unlabeled"),
)
"""Names that data sets give to the same class, for suggestions alone."""


def aliases(name: str) -> list[str]:
    """What a class may be called: its whole name, and each of the synonyms that it consists of."""
    synonyms = [synonym.strip() for synonym in re.split("[,;]", name)]
    return list(dict.fromkeys([name, *filter(None, synonyms)]))


def _target(name: str, target: LabelSet, rename: Mapping[str, str]) -> str:
    """The class that a network's class goes onto; its own name where it goes nowhere."""
    for alias in aliases(name):
        if alias in rename:
            return rename[alias]
    own = [alias for alias in aliases(name) if alias in target.names]
    return next(iter(own), rename.get(ALL_OTHERS, name))


class LabelMap:
    """Turns logits over one label set into logits over another, class by class, by name.

    Args:
        source: what the logits are over (K_s classes).
        target: what they should be over (K_t classes).
        rename: source name -> target name, for names that differ; "*" stands for all source classes that
            are not named and that `target` lacks. Where several source classes go onto one target class,
            their probabilities add up (log-sum-exp of the logits). What goes onto `ignore` is left out.
        partial: target classes may have no source: they get no probability.
        others: names that `rename` may hold though the source lacks them: those of other networks, say.

    A source class with several names ("person, individual" or "road;route") goes by any of them.

    Attributes:
        sources: of each target class the indices of its source classes.
        shared: indices of the target classes that have a source.

    Raises:
        ValueError: a source class goes nowhere, or a target class has no source.
    """

    def __init__(
        self,
        source: LabelSet,
        target: LabelSet,
        rename: Mapping[str, str] | None = None,
        *,
        partial: bool = False,
        others: Collection[str] = (),
    ) -> None:
        rename = rename or {}
        names = [_target(name, target, rename) for name in source.names]
        goals = (*target.names, IGNORE)
        unmapped = [own for own, name in zip(source.names, names, strict=True) if name not in goals]
        missing = [name for name in target.names if name not in names]
        known = {alias for name in source.names for alias in aliases(name)}
        unused = sorted(set(rename) - known - {ALL_OTHERS, *others})
        if unmapped or unused or (missing and not partial) or len(missing) == len(target):
            kept = {a: b for a, b in rename.items() if a not in unused and b in goals and a not in unmapped}
            raise ValueError(
                "the network's label set does not map onto the data set's: "
                f"its classes that the data set lacks: {', '.join(unmapped) or 'none'}; "
                f"classes of the data set that it lacks: {', '.join(missing) or 'none'}; "
                f"names in the map that it lacks: {', '.join(unused) or 'none'}. "
                + suggest_map(unmapped, [] if partial and len(missing) < len(target) else missing, kept)
            )
        self.sources = [[i for i, name in enumerate(names) if name == wanted] for wanted in target.names]
        self.shared = [index for index, group in enumerate(self.sources) if group]
        self.identity = self.sources == [[i] for i in range(len(source))]
        self.one_to_one = all(len(group) == 1 for group in self.sources)

    def __call__(self, logits: "Tensor") -> "Tensor":
        """N x K_s x H x W logits -> N x K_t x H x W logits."""
        if self.identity:
            return logits
        if self.one_to_one:
            return logits[:, [group[0] for group in self.sources]]
        import torch  # not above: data sets are checked before the seconds that it takes to load

        kept = [index for group in self.sources for index in group]
        none = logits[:, kept].logsumexp(dim=1) - ABSENT
        return torch.stack(
            [logits[:, group].logsumexp(dim=1) if group else none for group in self.sources], dim=1
        )


def suggest_map(unmapped: Sequence[str], missing: Sequence[str], rename: Mapping[str, str]) -> str:
    """A map to paste for classes of a network that a data set lacks, and what to do about those it lacks.

    Args:
        unmapped: classes of the network.
        missing: classes of the data set.
        rename: what is right in the map that there is.
    """
    near = {name: nearest_name(name, missing) for name in unmapped}
    found = {name: target for name, target in near.items() if target is not None}
    rest = {ALL_OTHERS: IGNORE} if len(found) < len(unmapped) and ALL_OTHERS not in rename else {}
    left = [name for name in missing if name not in found.values()]
    pairs = ", ".join(f"{_quoted(a)}: {_quoted(b)}" for a, b in {**rename, **found, **rest}.items())
    note = f"; `{IGNORE}` leaves all others out, the name of a class takes them up" if rest else ""
    advice = []
    if pairs:
        advice.append(
            f"Look through this and set {setting('teacher.map')} (of evaluate: {setting('map')}) to "
            f"'{{{pairs}}}'{note}"
        )
    if left:
        advice.append(
            f"No class of the network is {', '.join(left)}: {setting('teacher.shared_only')} (of evaluate: "
            f"{setting('shared_only')}) true goes on without them"
        )
    return ". ".join(advice) or "Leave these names out"


def nearest_name(name: str, choices: Sequence[str]) -> str | None:
    """The one of some names that most likely means the same; None where none does."""
    plain = {choice.casefold(): choice for choice in choices}
    for alias in map(str.casefold, aliases(name)):
        for group in SYNONYMS:
            if alias in group:
                for synonym in group:
                    if synonym in plain:
                        return plain[synonym]
        if close := get_close_matches(alias, plain, 1, 0.75):
            return plain[close[0]]
    return None


def _quoted(name: str) -> str:
    """A name as it may stand in a mapping of YAML."""
    return name if re.fullmatch(r"[A-Za-z_][\w .-]*", name) else f'"{name}"'
