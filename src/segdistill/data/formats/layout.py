"""What a reader of one layout on the disk offers; `table.LAYOUTS` lists the readers."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from segdistill.config.prompts import BACKGROUND
from segdistill.config.values import did_you_mean
from segdistill.data.formats.classes import CLASS_KEYS, ClassMap
from segdistill.data.formats.division import Division
from segdistill.data.images import File
from segdistill.data.labels import VOID, LabelSet, class_name, is_colour, label_set, read_yaml, voc_colours
from segdistill.data.masks import (
    MOST_ID,
    BinaryMasks,
    Colour,
    ColourMasks,
    IdMasks,
    IndexMasks,
    MaskReader,
)

DESCRIPTION = "dataset.yaml"
"""Name of the file that describes a data set, in its folder."""
LABEL_KEYS = frozenset({"names", "palette", "void"})
"""What a description of classes holds."""
ALL = "all"
"""The split of a data set that is not divided into splits."""
LIST_BYTES = 2**28
"""Largest list of a split's images: some million paths."""
SPLIT = "{split}"
"""Stands, in a description's paths, for the name of the split."""
MASK_KEYS = LABEL_KEYS | CLASS_KEYS | {"mask_format", "ids"}
"""What a description of mask files may hold."""
MASK_FORMATS = ("indices", "ids", "colours", "binary")
"""What mask files may hold."""


class FileList(NamedTuple):
    """The samples of one split."""

    ids: list[str]
    """A name for each, unique in the split."""
    images: Sequence[File]
    masks: Sequence[File]
    reader: MaskReader
    """Of the mask files."""
    find: Callable[[str], File] = Path
    """Turns `str(file)` back into the file: for those on the disk `Path`, for rows of a table a look-up."""


class UnknownSplitError(FileNotFoundError):
    """A data set has no split of that name."""


class Layout(ABC):
    """A data set on the disk, of one layout.

    Attributes:
        title: what people call the layout.
        signs: what a folder of this layout is recognised by.
        root: the folder that its files are below.
        labels: what the indices of its masks mean.
        one_split: whether all splits are the same images, so that none is left to validate on.
        same_images: why, for that error: "the data set in FOLDER has one split".
        to_divide: how to change that, for the same error: "save it with `train` and `val`".
        described_by: the name of its description, in `root`.
        val_is_path: whether the description's `val` may name images, and not only be a fraction.
        division: what its description says about holding samples out for validation.
        bits: per channel, of image files that have more than 8, as its description says; None where it does
            not.
    """

    title: str
    signs: str
    root: Path
    labels: LabelSet
    one_split: bool = False
    same_images: str = "has no {split} in the path of its images"
    to_divide: str = "put {split} into `images` and `masks`"
    described_by: str = DESCRIPTION
    val_is_path: bool = False
    division: Division = Division()
    bits: int | None = None

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

    def no_split(self, split: str, reason: str = "") -> UnknownSplitError:
        """The error for a split that there is not, with those that there are.

        Args:
            split: its name.
            reason: what is missing on the disk, where that is not plain.
        """
        others = ", ".join(self.splits()) or "none"
        why = f" ({reason})" if reason else ""
        return UnknownSplitError(f"{self.root} has no split {split!r}{why}; splits here: {others}")


def find_description(named: Path | None, default: Path) -> Path | None:
    """The description that a user named, else the one at its default place; None where there is none.

    Raises:
        FileNotFoundError: the one that is named does not exist.
    """
    if named is not None and not named.is_file():
        raise FileNotFoundError(f"data.layout {named} does not exist")
    path = named or default
    return path if path.is_file() else None


def read_classes_only(folder: Path, description: Path | None, files: LabelSet) -> ClassMap | None:
    """What becomes of the classes of a layout that needs no description.

    Args:
        folder: of the data set.
        description: that a user named.
        files: the classes of its files.

    Returns:
        None where the description holds more than `classes`, and so is one of another layout.

    Raises:
        FileNotFoundError, ValueError: the description does not exist, or is wrong.
    """
    described = find_description(description, folder / DESCRIPTION)
    content = read_yaml(described) if described else {}
    return ClassMap(content, files, str(described)) if content.keys() <= CLASS_KEYS else None


def require_split(layout: Layout, split: str) -> None:
    """Refuse a split that a layout does not have.

    Raises:
        UnknownSplitError: it does not.
    """
    if split not in layout.splits():
        raise layout.no_split(split)


def require_unique(ids: list[str], source: Path) -> None:
    """Refuse a list of images that has one twice.

    Raises:
        ValueError: an id is there more than once; the file `source` lists them.
    """
    name, count = Counter(ids).most_common(1)[0] if ids else ("", 0)
    if count > 1:
        raise ValueError(f"{source} lists the image {name!r} {count} times")


def labels_after_background(names: Iterable[str], source: str, palette: Mapping[str, Colour]) -> LabelSet:
    """The classes of a format that has no indices: the background, and then the others in their order.

    Args:
        names: of the classes, each once or more often; `BACKGROUND` may be among them.
        source: what the message of an error calls them.
        palette: colours of some of them; the others have VOC's colours.

    Raises:
        ValueError: there are too few or too many.
    """
    texts = [class_name(name) for name in names]
    ordered = [BACKGROUND, *dict.fromkeys(name for name in texts if name != BACKGROUND)]
    if len(ordered) < 2:
        raise ValueError(f"{source}: there is no class beside {BACKGROUND}; list the classes in `names`")
    colours = zip(ordered, voc_colours(len(ordered)), strict=True)
    return label_set(
        {"names": ordered, "palette": [palette.get(name, colour) for name, colour in colours]}, source
    )


def read_description(path: Path, allowed: frozenset[str]) -> dict[str, Any]:
    """What a dataset.yaml holds.

    Raises:
        ValueError: it is not YAML, or has a key that is not `allowed`.
    """
    description = read_yaml(path)
    for key in description:
        if key not in allowed:
            # What other tools call the void index: no spelling leads from there to it.
            meant = "void" if str(key).startswith("ignore") else key
            raise ValueError(
                f"{path} has the unknown key {str(key)[:100]!r}, but keys are {', '.join(sorted(allowed))}"
                f"{did_you_mean(meant, sorted(allowed))}"
            )
    return description


def dump_description(description: dict[str, Any]) -> str:
    """The text of a dataset.yaml."""
    return yaml.safe_dump(
        description, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )


def read_path(
    description: dict[str, Any], key: str, source: Path, root: Path, default: str | None = None
) -> str:
    """A path below `root`, of a description in the file `source`.

    Raises:
        ValueError: it is missing, or leads out of the data set's folder.
    """
    value = description.get(key, default)
    if default is None and not isinstance(value, str):
        raise ValueError(f"{source} has no `{key}` (the folder, where {SPLIT} stands for the split)")
    # A description comes with the data, and so from anyone: it names what is inside the data's folder.
    if not isinstance(value, str) or leads_out(value):
        raise ValueError(f"{source}: {key} is {value!r}, but must be a path below {root}, without ..")
    return value


def leads_out(path: str) -> bool:
    """Whether a path that data name may lie outside the folder that it is relative to."""
    return Path(path).is_absolute() or ".." in Path(path).parts


def find_splits(root: Path, path: str, *, folders: bool) -> list[str]:
    """What `{split}` can stand for in a `path` below `root`, sorted; [ALL] where it is not in it.

    Args:
        root: the folder that the data set is below.
        path: of a description.
        folders: whether it is one of folders, or of files.
    """
    if SPLIT not in path:
        return [ALL]
    steps = Path(path).parts
    depth = next(number for number, step in enumerate(steps) if SPLIT in step)
    before, after = steps[depth].split(SPLIT, 1)
    found = root.glob("/".join(steps).replace(SPLIT, "*"))
    wanted = (entry for entry in found if (entry.is_dir() if folders else entry.is_file()))
    names = (entry.parts[len(root.parts) + depth] for entry in wanted)
    return sorted({name.removeprefix(before).removesuffix(after) for name in names})


def read_masks(description: dict[str, Any], source: str) -> tuple[LabelSet, MaskReader]:
    """The classes of a description of mask files called `source`, and what reads them as these.

    Raises:
        ValueError: something in it is impossible.
    """
    labels, reader = read_file_masks(description, source)
    classes = ClassMap(description, labels, source)
    return classes.labels, classes.reader(reader)


def read_file_masks(description: dict[str, Any], source: str) -> tuple[LabelSet, MaskReader]:
    """The classes that the mask files themselves have, and what reads them; see `read_masks`."""
    form = description.get("mask_format", MASK_FORMATS[0])
    if form not in MASK_FORMATS:
        raise ValueError(
            f"{source}: mask_format is {str(form)[:100]!r}, but masks hold {', '.join(MASK_FORMATS)}"
        )
    if ("ids" in description) != (form == "ids"):
        raise ValueError(
            f"{source}: `ids` (the class of each id, such as 7: road) belongs to mask_format: ids, "
            "and each needs the other"
        )
    if form == "indices":
        labels = label_set(description, source)
        return labels, IndexMasks(labels)
    # The void of these files is an id, a colour or a grey value, not an index that the classes leave free.
    labels = label_set({key: value for key, value in description.items() if key != "void"}, source)
    void = description.get("void")
    try:
        if form == "ids":
            return labels, IdMasks(read_ids(description["ids"], void, labels))
        if form == "colours":
            if not description.get("palette"):
                raise ValueError("masks in colours need `palette`, the [R, G, B] of each class")
            return labels, ColourMasks(labels, None if void is None else read_colour(void))
        if len(labels) != 2:
            raise ValueError(f"binary masks have 2 classes, not {len(labels)}")
        if void is not None and not (isinstance(void, int) and 0 <= void <= 255):
            raise ValueError(f"void is {str(void)[:100]}, but must be a grey value, 0 to 255")
        return labels, BinaryMasks(void)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def read_ids(ids: Any, void: Any, labels: LabelSet) -> dict[int, int]:
    """The class index of each id in the `ids` of a description, and `VOID` of each that its `void` lists.

    Raises:
        ValueError: an id is impossible or named twice, a name is no class, or a class has no id.
    """
    if not isinstance(ids, dict) or not ids:
        raise ValueError("`ids` must hold the class of each id, such as 7: road")
    voids = [] if void is None else void if isinstance(void, list) else [void]
    wrong = [one for one in [*ids, *voids] if not (type(one) is int and 0 <= one <= MOST_ID)]
    if wrong:
        raise ValueError(f"ids: {str(wrong[0])[:100]!r} is no id: they are whole numbers, 0 to {MOST_ID}")
    twice = sorted(set(ids) & set(voids))
    if twice:
        raise ValueError(f"the id {twice[0]} is a class in `ids`, and is in `void` too")
    names = [class_name(name) for name in ids.values()]
    indices = labels.index(names)
    absent = [name for name in labels.names if name not in names]
    if absent:
        raise ValueError(f"no id in `ids` is of the class {absent[0]}; remove it from `names`, or add its id")
    return dict(zip(ids, indices, strict=True)) | dict.fromkeys(voids, VOID)


def read_colour(value: Any) -> Colour:
    """An [R, G, B] of a description; anything else is a `ValueError`."""
    if is_colour(value):
        return value[0], value[1], value[2]
    raise ValueError(
        f"void is {str(value)[:100]}, but where masks are colours it is one: [R, G, B], each 0 to 255"
    )
