"""What the class indices of a mask mean: names, colours, the void index."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.config.prompts import BACKGROUND
from segdistill.files import read_plain_yaml

VOID = 255
"""Index of pixels without a label, in every mask inside the package."""

VOC_VOID = (224, 224, 192)
"""Colour in which VOC's mask files show void."""
VOC_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
).split()
# The same class under another name: torchvision calls VOC's background so.
SYNONYMS = {"__background__": BACKGROUND}


def class_name(name: object) -> str:
    """The name of a class as label sets have it; files may give a number, or a synonym."""
    return SYNONYMS.get(str(name), str(name))


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The K classes of a data set or a network.

    Attributes:
        names: K class names in index order.
        palette: K RGB triples, 0 to 255.
        void: index of unlabelled pixels in the data set's own mask files; readers turn it into `VOID`.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()
    void: int = VOID

    def __post_init__(self) -> None:
        names = tuple(map(class_name, self.names))
        if not 2 <= len(names) < VOID:
            raise ValueError(
                f"a label set has 2 to {VOID - 1} classes, not {len(names)}"
                + (f": masks have 8 bits, of which {VOID} is void" if len(names) >= VOID else "")
            )
        if len(set(names)) != len(names):
            raise ValueError(f"class names repeat: {sorted(n for n in set(names) if names.count(n) > 1)}")
        palette = tuple((int(r), int(g), int(b)) for r, g, b in self.palette or voc_colours(len(names)))
        if len(palette) != len(names) or not all(0 <= c <= 255 for colour in palette for c in colour):
            raise ValueError(
                f"palette has {len(palette)} colours for {len(names)} classes, or one beyond 0-255"
            )
        if not (isinstance(self.void, int) and 0 <= self.void <= 255):
            raise ValueError(f"void is {self.void}, but must be an 8-bit index")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "palette", palette)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def file_palette(self) -> list[int]:
        """768 palette bytes for a PIL "P" image; the void index is shown in VOC's pale grey."""
        table = [channel for colour in self.palette for channel in colour]
        table += [0] * (768 - len(table))
        table[VOID * 3 :] = VOC_VOID
        return table

    def index(self, names: list[str]) -> list[int]:
        """Indices of the named classes; an unknown name is a `ValueError` that lists the choices."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"no class is called {', '.join(unknown)}; classes are {', '.join(self.names)}")
        return [self.names.index(name) for name in names]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `label_set`."""
        return {"names": list(self.names), "palette": [list(c) for c in self.palette], "void": self.void}


def voc_colours(count: int) -> list[tuple[int, int, int]]:
    """The PASCAL VOC colour map: bit j of each channel's colour comes from bit 3j + channel of the index."""
    return [
        tuple(sum(((i >> (3 * j + c)) & 1) << (7 - j) for j in range(8)) for c in range(3))  # type: ignore[misc]
        for i in range(count)
    ]


VOC = LabelSet(names=tuple(VOC_NAMES))


def label_set(description: Mapping[str, Any], source: str) -> LabelSet:
    """A label set from the `names`, `palette` and `void` of a parsed YAML or JSON file called `source`.

    Raises:
        ValueError: `names` is missing or something in it is impossible.
    """
    if not isinstance(description, Mapping) or not isinstance(description.get("names"), list):
        raise ValueError(f"{source} has no list `names` (the class names in index order)")
    wrong = next((name for name in description["names"] if not isinstance(name, str | int | float)), None)
    if wrong is not None or None in description["names"]:
        raise ValueError(
            f"{source}: names has {str(wrong)[:100]}, but must list a text for each class, such as "
            "[background, road]"
        )
    palette = description.get("palette") or []
    if not isinstance(palette, list | tuple) or not all(map(is_colour, palette)):
        raise ValueError(
            f"{source}: palette is {str(palette)[:100]}, but must list an [R, G, B], each 0 to 255, for each "
            "class, such as [[0, 0, 0], [128, 64, 128]]"
        )
    try:
        return LabelSet(
            names=tuple(description["names"]),
            palette=tuple((red, green, blue) for red, green, blue in palette),
            void=description.get("void", VOID),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{source}: {error}") from None


def is_colour(value: object) -> bool:
    """Whether a value of a YAML or JSON file is an [R, G, B]."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in value)
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; anything else is a `ValueError`."""
    content = read_plain_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping with `names`, `palette`, `void`, ...")
    return content
