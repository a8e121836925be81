"""The verbs of `segdistill data`: they look at data sets, fetch one and draw one."""

from pathlib import Path

from segdistill.config.verbs import Options, Result, Verb
from segdistill.data.formats.table import open_layout

TEXT = {"type": str | None, "default": None}
"""An option that is a text, or absent."""


def check_data(options: Options) -> None:
    open_layout(options.path, options.layout)


def run_check(options: Options) -> Result:
    from segdistill.console import log, progress
    from segdistill.data.check import Survey, check
    from segdistill.data.datasets import open_dataset, splits

    found = [options.split] if options.split else splits(options.path, options.layout)
    pairs, problems, warnings = 0, 0, 0
    # A VOC devkit without lists has no split: opening one gives the error that names what is missing.
    for split in found or ["train"]:
        dataset = open_dataset(options.path, split, layout=options.layout, strict=False)
        with progress() as bar:
            task = bar.add_task(f"check {split}", total=len(dataset), numbers="")
            counted = Survey(dataset.labels, dataset.labelled)
            for problem in check(dataset, counted):
                pairs += 1
                if problem:
                    problems += 1
                    log(f"{split} {problem.id}: {problem.reason}")
                bar.advance(task)
        for warning in counted.warnings:
            log(f"{split}: {warning}")
        warnings += len(counted.warnings)
    counts = {"pairs": pairs, "problems": problems, "warnings": warnings}
    return {"path": options.path, "splits": found, **counts}


def run_download(options: Options) -> Result:
    from segdistill.data.download import download_voc

    return {"devkit": str(download_voc(Path(options.root)))}


def run_shapes(options: Options) -> Result:
    from segdistill.data.shapes import write_shapes

    devkit = write_shapes(
        Path(options.out), seed=options.seed, train=options.train, val=options.val, size=options.size
    )
    return {"devkit": str(devkit)}


DATA_VERBS = {
    "check": Verb(
        help="read every pair and name each bad file",
        run=run_check,
        check=check_data,
        arguments={
            "path": {"help": "the data set's folder"},
            "--layout": {"help": "a dataset.yaml kept elsewhere", **TEXT},
            "--split": {"help": "one split; all where absent", **TEXT},
        },
    ),
    "download": Verb(
        help="download PASCAL VOC 2012 (2 GB)",
        run=run_download,
        arguments={
            "name": {"choices": ["voc"], "help": "the data set"},
            "--root": {"required": True, "help": "the folder that gets VOCdevkit"},
        },
    ),
    "shapes": Verb(
        help="draw the embedded data set, in VOC layout",
        run=run_shapes,
        arguments={
            "--out": {"required": True, "help": "the folder that gets VOCdevkit"},
            "--train": {"type": int, "default": 600, "help": "training images"},
            "--val": {"type": int, "default": 150, "help": "validation images"},
            "--size": {"type": int, "default": 128, "help": "height and width in pixels"},
            "--seed": {"type": int, "default": 0, "help": "seeds the drawing"},
        },
    ),
}
