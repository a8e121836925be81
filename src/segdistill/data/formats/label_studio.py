"""Reads exports of Label Studio: its JSON with brush strokes and polygons, or its PNG files of brushes."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from segdistill.data.formats.classes import CLASS_KEYS, ClassMap
from segdistill.data.formats.label_studio_masks import (
    Annotation,
    LabelStudioMasks,
    Layer,
    region_label,
)
from segdistill.data.formats.layout import (
    DESCRIPTION,
    SPLIT,
    FileList,
    Layout,
    find_description,
    find_splits,
    labels_after_background,
    read_description,
    read_path,
    require_unique,
)
from segdistill.data.images import SUFFIXES, list_images
from segdistill.data.labels import LabelSet, label_set, read_yaml
from segdistill.files import read_json

KEYS = CLASS_KEYS | {"names", "palette", "tasks", "images", "masks"}
EXPORTS = "project-*-at-*.json"
"""What Label Studio calls its export."""
JSON_BYTES = 2**31
"""Largest file of tasks; a brush stroke takes some kilobytes."""
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded."""
LAYER_STEM = re.compile(r"task-(\d+)-annotation-(\d+)-by-(.+)-(\d+)")
"""Stem of a PNG file: numbers of task and annotation, then annotator, tool and class, and a counter."""


class Annotated(NamedTuple):
    """An annotated image."""

    image: Path
    regions: Sequence[Annotation]
    mask: Path
    """The file that holds them; of several, the newest."""


class LabelStudioLayout(Layout):
    """A JSON file of tasks, the folder of their images, and perhaps PNG files of their brush strokes.

    Args:
        root: the folder that the description's paths are below.
        source: the description, or the JSON file where there is none.
        description: `tasks` is the JSON file, `images` a folder, `masks` one of PNG files.
    """

    title = "an export of Label Studio"
    signs = f"{EXPORTS}, or {DESCRIPTION} with `tasks`"
    same_images = "is one export of Label Studio"
    to_divide = "put {split} into `tasks`"

    def __init__(self, root: Path, source: Path, description: dict[str, Any]) -> None:
        self.root, self.source = root, source
        self.tasks = read_path(description, "tasks", source, root)
        self.images = read_path(description, "images", source, root, default="images")
        self.layers = read_path(description, "masks", source, root) if "masks" in description else None
        self.one_split = SPLIT not in self.tasks
        if "names" not in description and self.layers:
            raise ValueError(
                f"{source}: `masks` (PNG files of Label Studio) needs `names`, to tell the classes"
            )
        self.files = label_set(description, str(source)) if "names" in description else self.find_labels()
        self.classes = ClassMap(description, self.files, str(source))
        self.labels = self.classes.labels

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The export that `folder` holds; a dataset.yaml of another layout comes first."""
        described = find_description(description, folder / DESCRIPTION)
        content = read_yaml(described) if described else {}
        if described and "tasks" in content:
            return cls(folder, described, read_description(described, KEYS))
        exports = sorted(folder.glob(EXPORTS))
        if not exports or not content.keys() <= KEYS - {"images", "masks"}:
            return None
        if len(exports) > 1:
            raise ValueError(
                f"{folder} holds {len(exports)} exports of Label Studio: name one as `tasks` in {DESCRIPTION}"
            )
        return cls(folder, described or exports[0], {**content, "tasks": exports[0].name})

    def find_labels(self) -> LabelSet:
        """The classes that the regions of all splits have, sorted, after the background."""
        tasks = (task for split in self.splits() for task in read_tasks(self.task_file(split)))
        regions = (region for task in tasks for region in chosen_regions(task) or [])
        found = {name for region in regions if (name := region_label(region)) is not None}
        return labels_after_background(sorted(found), str(self.source), {})

    def task_file(self, split: str) -> Path:
        """The JSON file of a split."""
        return self.root / self.tasks.replace(SPLIT, split)

    def splits(self) -> list[str]:
        """What `{split}` can stand for in the path of the JSON file; [ALL] where it is not in it."""
        return find_splits(self.root, self.tasks, folders=False)

    def list_files(self, split: str) -> FileList:
        """The annotated images of a split; tasks that were skipped or not annotated are left out."""
        path = self.task_file(split)
        if not path.is_file():
            raise self.no_split(split, f"{path} does not exist")
        images = ImageFolder(self.root / self.images.replace(SPLIT, split))
        if self.layers is None:
            chosen = ((task, chosen_regions(task)) for task in read_tasks(path))
            found = [Annotated(images.find(task, path), r, path) for task, r in chosen if r is not None]
        else:
            layers = self.find_layers(self.root / self.layers.replace(SPLIT, split))
            tasks = (task for task in read_tasks(path, annotated=False) if task.get("id") in layers)
            found = [Annotated(images.find(task, path), *layers[task["id"]]) for task in tasks]
        ids = [one.image.relative_to(images.folder).with_suffix("").as_posix() for one in found]
        require_unique(ids, path)
        reader = LabelStudioMasks(self.files.names, ids, [one.regions for one in found])
        return FileList(
            ids, [one.image for one in found], [one.mask for one in found], self.classes.reader(reader)
        )

    def find_layers(self, folder: Path) -> dict[int, tuple[list[Layer], Path]]:
        """Regions and newest file of the newest annotation of each task, from the PNG files in a folder.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a file has another name, or is of no class.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}, the `masks` of {self.source}, is not a folder")
        found: defaultdict[int, defaultdict[int, list[tuple[int, int, Path]]]]
        found = defaultdict(lambda: defaultdict(list))
        for path in sorted(folder.glob("*.png")):
            match = LAYER_STEM.fullmatch(path.stem)
            if match is None:
                raise ValueError(f"{path} is not called task-N-annotation-N-by-...-CLASS-N.png")
            task, annotation, middle, counter = match.groups()
            # Longest first: "car" ends "police-car", too. Label Studio writes - for the slashes of names.
            names = sorted(self.files.names, key=len, reverse=True)
            name = next((n for n in names if middle.endswith("-" + re.sub(r"[/\\]", "-", n))), None)
            if name is None:
                raise ValueError(f"{path} is of no class; the classes are {', '.join(self.files.names)}")
            found[int(task)][int(annotation)].append((self.files.names.index(name), int(counter), path))
        newest = {number: sorted(annotations[max(annotations)]) for number, annotations in found.items()}
        return {
            number: (
                [Layer(self.files.names[index], path) for index, _, path in files],
                max((path for _, _, path in files), key=lambda path: path.stat().st_mtime),
            )
            for number, files in newest.items()
        }


class ImageFolder:
    """The images of an export, found by what its tasks call them.

    Args:
        folder: that they lie below.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is not a folder: put the images there, or name their folder as `images` in "
                f"{DESCRIPTION}"
            )
        self.folder = folder
        self.paths: defaultdict[str, list[Path]] = defaultdict(list)
        for path in list_images(folder):
            self.paths[path.name].append(path)

    def find(self, task: dict[str, Any], source: Path) -> Path:
        """The image of a task: of its name, with the number that an upload puts before it or without.

        Raises:
            ValueError: the task names none, or several have the name.
        """
        named = image_name(task)
        if named is None:
            raise ValueError(
                f"{source}: task {task.get('id')} names no image ({', '.join(sorted(SUFFIXES))})"
            )
        names = (named, named.with_name(UPLOADED.sub("", named.name)))
        named = next((name for name in names if name.name in self.paths), named)
        found = self.paths.get(named.name, [])
        if len(found) > 1:
            ends = {path: f"/{path.relative_to(self.folder).as_posix()}" for path in found}
            found = [path for path, end in ends.items() if f"/{named.as_posix()}".endswith(end)]
            if len(found) != 1:
                raise ValueError(f"{source}: several images in {self.folder} could be {str(named)!r}")
        return found[0] if found else self.folder / named.name


def image_name(task: dict[str, Any]) -> Path | None:
    """The path in the address of a task's image: an upload's, a local file's (`?d=PATH`) or one elsewhere."""
    data = task.get("data", task)
    for value in data.values() if isinstance(data, dict) else ():
        if isinstance(value, str):
            address = urlsplit(value)
            path = Path(parse_qs(address.query).get("d", [unquote(address.path)])[0])
            if path.suffix.lower() in SUFFIXES:
                return path
    return None


def read_tasks(path: Path, *, annotated: bool = True) -> list[dict[str, Any]]:
    """The tasks of an export.

    Args:
        path: of the JSON file.
        annotated: whether the tasks must have annotations; those of JSON-MIN have none.

    Raises:
        ValueError: it is another file.
    """
    content = read_json(path, JSON_BYTES)
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise ValueError(f"{path} is no list of tasks: export from Label Studio as JSON")
    if annotated and not all(isinstance(task.get("annotations"), list) for task in content):
        raise ValueError(
            f"{path} has tasks without `annotations`: export from Label Studio as JSON, not JSON-MIN"
        )
    return content


def chosen_regions(task: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The regions of a task's ground truth, else of its newest annotation; None where it has none."""
    annotations = [
        one for one in task["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")
    ]
    if not annotations:
        return None
    best = max(annotations, key=lambda one: (bool(one.get("ground_truth")), str(one.get("created_at", ""))))
    result = best.get("result")
    return [one for one in result if isinstance(one, dict)] if isinstance(result, list) else []
