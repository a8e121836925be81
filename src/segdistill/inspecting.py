"""Verbs of `segdistill data` as functions: every file is read, and counted, compared or written anew."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from segdistill.config.show import ShowConfig
from segdistill.console import console, counted, log, progress
from segdistill.data.check import Survey, check, count_masks
from segdistill.data.convert import convert, plan
from segdistill.data.datasets import open_split
from segdistill.data.devkit_folder import DevkitFolder
from segdistill.data.duplicates import BITS, Fingerprint, find_duplicates
from segdistill.data.formats.huggingface import IMAGE_COLUMN
from segdistill.data.formats.layout import Layout
from segdistill.data.formats.table import open_layout
from segdistill.data.formats.tar import find_tars
from segdistill.data.image_source import open_source
from segdistill.data.images import write_image
from segdistill.data.labels import VOC
from segdistill.data.masks import Problem
from segdistill.data.objects import find_labeller
from segdistill.data.problems import EXAMPLES, by_cause, suggest_ids
from segdistill.data.samples import FileSamples
from segdistill.data.shard_folder import ShardFolder, check_out
from segdistill.data.tar_samples import open_tars
from segdistill.files import write_atomic
from segdistill.reporting.contact_sheet import Sheet, choose, draw_sheet, render_sheet
from segdistill.reporting.tables import class_table

GROUPS_NAMED = 5
"""Groups that a line names."""


class Inspection:
    """What is found in the splits of a data set, logged as it is found.

    Args:
        layout: the data set.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.warnings = self.duplicates = 0
        self.bad: dict[str, list[str]] = {}
        self.sizes: dict[str, int] = {}
        self.statistics: dict[str, dict[str, Any]] = {}
        self.fingerprints: dict[str, list[Fingerprint]] = {}
        self.groups: dict[str, set[str]] = {}

    def read(self, split: str, samples: FileSamples) -> None:
        """Read every sample of a split, and name the bad ones."""
        bad: list[Problem] = []
        self.sizes[split] = len(samples)
        division = self.layout.division
        if division.group is not None:
            self.groups[split] = set(division.groups(samples.ids))
        counted, prints = Survey.of(samples), list[Fingerprint]()
        with progress() as bar:
            task = bar.add_task(f"check {split}", total=len(samples), unit="image")
            for problem in check(samples, counted, prints):
                bad += [problem] if problem else []
                bar.advance(task)
        log_problems(bad, f"{split} ")
        self.bad[split] = [problem.id for problem in bad]
        if bad and (hint := suggest_ids(samples, self.bad[split])):
            log(f"{split}: {hint}")
        self.fingerprints[split], self.statistics[split] = prints, counted.record
        for warning in counted.warnings:
            self.log_warning(f"{split}: {warning}")
        groups = f", {len(self.groups[split]):,} groups" if split in self.groups else ""
        console.print(class_table(f"{split}: {len(samples):,} images{groups}", counted.record))

    def compare(self, first: str, second: str) -> None:
        """Name the images, and the groups, that two splits have in common."""
        files = [{image.file for image in self.fingerprints[split]} for split in (first, second)]
        common = files[0] & files[1]
        if common:
            self.log_warning(f"{first} and {second} have {len(common):,} files in common")
        if common in files:  # such as train and trainval, which are meant so
            return
        for found in find_duplicates(self.fingerprints[second], self.fingerprints[first]):
            self.duplicates += 1
            likeness = "has the pixels of" if found.distance is None else "looks like"
            bits = "" if found.distance is None else f" ({found.distance} of {BITS} bits differ)"
            log(f"{second} {found.id}: {likeness} {first} {found.other}{bits}")
        both = sorted(self.groups.get(first, set()) & self.groups.get(second, set()))
        if both:
            more = f" and {len(both) - GROUPS_NAMED:,} more" if len(both) > GROUPS_NAMED else ""
            self.log_warning(
                f"{first} and {second} have the group {', '.join(both[:GROUPS_NAMED])}{more} in common"
            )

    def log_warning(self, text: str) -> None:
        """Log and count what is suspicious, but no error."""
        self.warnings += 1
        log(text)


def log_problems(problems: Sequence[Problem], where: str = "") -> None:
    """Log what is wrong by cause: some examples, and how many more there are.

    Args:
        problems: of samples.
        where: in front of their ids, such as a split with a blank.
    """
    for alike in by_cause(problems):
        for problem in alike[:EXAMPLES]:
            log(f"{where}{problem.id}: {problem.reason}")
        if len(alike) > EXAMPLES:
            more = f"{len(alike) - EXAMPLES:,} more like {alike[0].id}"
            log(f"{where}and {more}: `bad` in the JSON line names all")


def check_dataset(
    root: str | Path, layout: str | Path | None = None, split: str | None = None
) -> dict[str, Any]:
    """Read every pair of a data set; what is wrong is logged by cause, and so is what each split holds.

    Args:
        root, layout: see `open_layout`.
        split: one split; all where absent, which are then compared with each other.

    Returns:
        `path`, `splits`, `sizes` (images by split), `pairs`, `problems` (bad pairs), `bad` (their ids by
        split), `warnings`, `duplicates` (images that an earlier split has too) and `statistics`
        (`Survey.record` by split).

    Raises:
        FileNotFoundError: there is no data set, or no such split.
        ValueError: its description is wrong.
    """
    opened = open_layout(root, layout)
    found = [split] if split else opened.splits()
    inspection = Inspection(opened)
    # A VOC devkit without lists has no split: opening one gives the error that names what is missing.
    sets = {name: open_split(opened, name, strict=False) for name in found or ["train"]}
    total = counted(sum(map(len, sets.values())), "image")
    log(f"Checking {total} of {root}: {', '.join(f'{name} {len(one):,}' for name, one in sets.items())}")
    for name, samples in sets.items():
        inspection.read(name, samples)
    for first, second in combinations(found, 2):
        inspection.compare(first, second)
    if find_labeller() is None:
        log("The smallest objects were not looked for: install segdistill[check]")
    return {
        "path": str(root),
        "splits": found,
        "sizes": inspection.sizes,
        "pairs": sum(inspection.sizes.values()),
        "problems": sum(len(ids) for ids in inspection.bad.values()),
        "bad": inspection.bad,
        "warnings": inspection.warnings,
        "duplicates": inspection.duplicates,
        "statistics": inspection.statistics,
    }


def check_tars(source: str | Path) -> dict[str, Any]:
    """Read every image of some tar files; those that cannot be read are logged by cause.

    Args:
        source: a tar file, a folder of them, or a pattern.

    Returns:
        `path`, `tars`, `images`, `problems` and `warnings` (how many there are of each), and `bad` (ids of
        the problems).

    Raises:
        FileNotFoundError: there are none.
        ValueError: a tar file is cut short, or has two images of one name.
    """
    tars, bad = find_tars(source), list[Problem]()
    log(f"Checking the images of {counted(len(tars), 'tar file')}, {source}")
    samples = open_tars(tars, VOC)  # for masks that there are not
    found = Survey.of(samples)
    with progress() as bar:
        task = bar.add_task("check", total=len(samples), unit="image")
        for problem in check(samples, found):
            bad += [problem] if problem else []
            bar.advance(task)
    log_problems(bad)
    for warning in found.warnings:
        log(warning)
    log(f"{counted(len(samples), 'image')} in {counted(len(tars), 'tar file')}")
    return {
        "path": str(source), "tars": len(tars), "images": len(samples), "problems": len(bad),
        "bad": [problem.id for problem in bad], "warnings": len(found.warnings),
    }  # fmt: skip


def show_dataset(root: str | Path, config: ShowConfig, layout: str | Path | None = None) -> dict[str, Any]:
    """Draw images of a data set with their masks, a legend and the classes' shares of the pixels.

    Args:
        root, layout: see `open_layout`.
        config: which images, and where to.

    Returns:
        `out` (the files), `split`, `images` (how many are shown) and `Survey.record` of the split.

    Raises:
        FileNotFoundError: there is no data set, or no such split.
        ValueError: its description is wrong, it has no such class, or a mask cannot be read.
    """
    opened = open_layout(root, layout)
    wanted = None if config.class_name is None else opened.labels.index([config.class_name])[0]
    found = opened.splits()
    split = config.split or ("train" if "train" in found or not found else found[0])
    samples = open_split(opened, split)
    log(f"Counting the classes in the masks of {counted(len(samples), 'image')} of {root}, {split}")
    survey, candidates = Survey.of(samples), list[int]()
    with progress() as bar:
        task = bar.add_task(f"count {split}", total=len(samples), unit="image")
        for index, counts in enumerate(count_masks(samples, range(len(samples)))):
            survey.add(counts)
            if wanted is None or counts[wanted]:
                candidates.append(index)
            bar.advance(task)
    if not candidates:
        raise ValueError(f"no mask of split {split!r} shows {config.class_name}")
    chosen = choose(config.images, candidates)
    that = "" if wanted is None else f" that show {config.class_name}"
    some = "" if len(chosen) == len(candidates) else f"{len(chosen)} of "
    evenly = ", evenly chosen" if some else ""
    title = f"{Path(root).resolve().name}, {split}: {some}{len(candidates):,} images{that}{evenly}"
    sheet = Sheet(title=title, samples=samples, indices=chosen, counted=survey)
    for path in config.files:
        if path.suffix.lower() == ".html":
            write_atomic(path, render_sheet(sheet))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, draw_sheet(sheet), "PNG")
        log(f"{title}: {path}")
    out = [str(path) for path in config.files]
    return {"out": out, "split": split, "images": len(chosen), **survey.record}


def convert_dataset(root: str | Path, out: str | Path, layout: str | Path | None = None) -> dict[str, Any]:
    """Write all splits of a data set as a VOC devkit; a later call writes what is missing or has changed.

    Args:
        root, layout: see `open_layout`.
        out: the devkit's folder; it gets `JPEGImages` (hard links where the file system allows it, with the
            suffixes that they have), `SegmentationClass` (palette PNG, 255 is void), `ImageSets`,
            `dataset.yaml` and `convert.json` (which file each image is).

    Returns:
        `out`, `splits` (images by split), `images`, `computed` (masks that this call wrote) and `problems`
        (pairs that cannot be read: they are logged and left out).

    Raises:
        FileNotFoundError: there is no data set.
        ValueError: its description is wrong, the folder holds something else or the masks of other classes,
            or another process writes into it.
    """
    opened = open_layout(root, layout)
    folder = DevkitFolder(out, bits=opened.bits)
    folder.check([root])
    sets = {split: open_split(opened, split, strict=False) for split in opened.splits()}
    if not sets:
        raise ValueError(f"{root} has no splits: there is nothing to convert")
    with folder.locked():
        tasks = plan(sets, folder, Path(root))
        missing = {task.target: task for task in tasks if not task.is_done()}
        total = len({task.target for task in tasks})
        there = f"; {total - len(missing):,} are there" if len(missing) < total else ""
        log(f"Converting {counted(total, 'image')} of {root} into the VOC devkit {out}{there}")
        failed = set()
        with progress() as bar:
            done = bar.add_task("convert", total=len(missing), unit="image")
            for task, problem in zip(missing.values(), convert(missing.values()), strict=True):
                if problem:
                    failed.add(task.target)
                    log(f"Left out: {task.split} {problem.id}: {problem.reason}")
                bar.advance(done)
        lists: dict[str, list[str]] = {split: [] for split in sets}
        for task in tasks:
            if task.target not in failed:
                lists[task.split].append(str(task.image.name))
        folder.write_lists(lists)
    sizes = {split: len(names) for split, names in lists.items()}
    log(f"{', '.join(f'{split}: {size:,} images' for split, size in sizes.items())}; the devkit is {out}")
    return {
        "out": str(out),
        "splits": sizes,
        "images": len({task.image.name for task in tasks if task.target not in failed}),
        "computed": len(missing) - len(failed),
        "problems": len(failed),
    }


def shard_images(
    source: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    subset: str | None = None,
    column: str = IMAGE_COLUMN,
    each: int = 2000,
) -> dict[str, Any]:
    """Write images without masks into tar files; a later call goes on where one stopped.

    Args:
        source: a folder of images, one that `datasets` opens, or `hf:ORG/NAME[@REVISION]`, which is streamed.
        out: the folder that gets `000000.tar`, ... and `shards.json`.
        split, subset, column: of a Hugging Face data set; see `StreamSource`.
        each: images of the source for each tar file.

    Returns:
        `out`, `shards` and `images` (how many are there), `computed` (images that this call wrote) and
        `problems` (images that cannot be read: they are logged and left out).

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: the folder holds something else, or the tar files of other settings, another process
            writes into it, or the source cannot be read any further.
    """
    if each < 1:
        raise ValueError(f"shard_images is {each}, but must be 1 or more")
    check_out(Path(out))
    images = open_source(str(source), split, subset, column)
    folder = ShardFolder(Path(out), images.facts, each)
    these = "the images" if images.total is None else counted(images.total, "image")
    with folder.locked(), progress() as bar:
        log(f"Writing {these} of {source} into tar files of {counted(each, 'image')}, in {out}")
        before = sum(done.images for done in folder.written)
        task = bar.add_task("shard", total=images.total, completed=folder.rows, unit="image")
        for problem in folder.write(images.read(folder.rows)):
            if problem:
                log(f"Left out: {problem.id}: {problem.reason}")
            bar.advance(task)
    total = sum(done.images for done in folder.written)
    log(f"{counted(total, 'image')} in {counted(len(folder.written), 'tar file')}, in {out}")
    return {
        "out": str(out),
        "shards": sum(done.images > 0 for done in folder.written),
        "images": total,
        "computed": total - before,
        "problems": sum(done.left_out for done in folder.written),
    }
