"""Writes a data set of any layout as a VOC devkit: images linked or copied, masks as palette PNG files."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from segdistill.data.devkit_folder import DevkitFolder
from segdistill.data.images import SUFFIXES, File, write_image
from segdistill.data.label_folder import LabelledImage
from segdistill.data.masks import Problem, palette_image
from segdistill.data.samples import FileSamples


@dataclass(frozen=True)
class Task:
    """One mask to write.

    Attributes:
        split, samples, index: where it is read from.
        folder, image: where it goes.
        embedded: whether the image is stored within another file: it becomes a PNG file.
    """

    split: str
    samples: FileSamples
    index: int
    folder: DevkitFolder
    image: LabelledImage
    embedded: bool = False

    @property
    def source(self) -> File | None:
        """The file that the mask is read from."""
        return self.samples.files(self.index).mask

    @property
    def target(self) -> Path:
        """The file that it is written to."""
        return self.folder.mask_file(self.image)

    def is_done(self) -> bool:
        """Whether image and mask are there, and are not older than what they were made from."""
        if self.embedded:
            if not (self.target.is_file() and self.folder.image_file(self.image).is_file()):
                return False
        elif not self.image.source.is_file() or not self.folder.has(self.image):
            return False
        return self.target.stat().st_mtime_ns >= self._changed()

    def run(self) -> Problem | None:
        """Write the mask and put the image beside it; returns why it cannot be done."""
        try:
            sample = self.samples[self.index]
        except (ValueError, OSError) as error:
            return Problem(self.samples.files(self.index).id, str(error))
        self.target.parent.mkdir(parents=True, exist_ok=True)
        write_image(self.target, palette_image(sample.mask.numpy(), self.samples.labels), "PNG")
        if self.target.stat().st_mtime_ns < self._changed():  # by a clock that is ahead: the mask is newer
            os.utime(self.target, ns=(self._changed(), self._changed()))
        if self.embedded:
            image = self.folder.image_file(self.image)
            image.parent.mkdir(parents=True, exist_ok=True)
            write_image(image, Image.fromarray(sample.image.permute(1, 2, 0).numpy()), "PNG")
        else:
            self.folder.add(self.image)
        return None

    def _changed(self) -> int:
        return self.source.stat().st_mtime_ns if self.source is not None and self.source.is_file() else 0


def plan(sets: dict[str, FileSamples], folder: DevkitFolder, root: Path) -> list[Task]:
    """What there is to write; the folder gets its description.

    Args:
        sets: the samples of each split.
        folder: that is written.
        root: the folder of the data set.

    Raises:
        ValueError: the folder holds masks of other settings, or an image has two masks.
    """
    files = [(split, index, one.files(index)) for split, one in sets.items() for index in range(len(one))]
    found = [(image_path(file.image), devkit_name(file.id)) for _, _, file in files]
    labels = next(iter(sets.values())).labels
    forms = {split: samples.reader.form for split, samples in sets.items()}
    settings = {"root": str(root.absolute()), "classes": labels.to_dict(), "form": forms}
    named = folder.open(found, labels, settings)
    by_source = {os.path.abspath(image.source): image for image in named}  # noqa: PTH100  # as `open` has it
    folders = {split: DevkitFolder(folder.path, split) for split in sets}
    tasks = []
    for (split, index, file), (path, _) in zip(files, found, strict=True):
        image = by_source[os.path.abspath(path)]  # noqa: PTH100
        embedded = not isinstance(file.image, Path)
        tasks.append(Task(split, sets[split], index, folders[split], image, embedded))
    masks: dict[Path, str] = {}
    for task in tasks:
        if masks.setdefault(task.target, str(task.source)) != str(task.source):
            raise ValueError(
                f"{task.image.source} has two masks, {masks[task.target]} and {task.source}: a VOC devkit "
                "holds one for each image"
            )
    return tasks


def convert(tasks: Iterable[Task]) -> Iterator[Problem | None]:
    """Carry out the tasks, several at once; yields in order, a `Problem` for what cannot be read."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(Task.run, tasks)


def image_path(image: File) -> Path:
    """The file of an image; for one that is stored within another, a path that names it alone."""
    if isinstance(image, Path):
        return image
    return image.container / f"{str(image).replace('/', '_').lstrip('.')}.png"


def devkit_name(name: str) -> Path:
    """A sample's id as VOC's lists can hold it: no folders, no spaces, no suffix of an image."""
    flat = "_".join(name.replace("/", " ").split())
    return Path(flat.replace(".", "_") if Path(flat).suffix.lower() in SUFFIXES else flat)
