"""Reports of the drawn runs of tests/reporting."""

from pathlib import Path

import numpy as np

from segdistill.engine.run_folder import RunFolder
from segdistill.reporting.examples import Example, pick_examples
from segdistill.reporting.records import read_records, run_names
from segdistill.reporting.report import write_report


def examples(*runs, teacher=True, count=1) -> list[Example]:
    """Pictures of drawn runs: `count` of the best, median and worst images, with a teacher that is right."""
    found = []
    for role, name in pick_examples(runs[0].summary["images"], count):
        truth = runs[0].truths[name]
        predictions = {"teacher": np.where(truth == 255, 0, truth)} if teacher else {}
        predictions |= {run.path.name: run.predictions[name] for run in runs}
        scores = {run.path.name: run.summary["images"][name] for run in runs}
        image = np.full((*truth.shape, 3), 90, dtype=np.uint8)
        found.append(
            Example(id=name, role=role, scores=scores, image=image, truth=truth, predictions=predictions)
        )
    return found


def write_page(runs, out: Path, shown) -> Path:
    """`write_report` on the records of run folders."""
    names = run_names(runs)
    return write_report(
        [read_records(RunFolder(run), name) for run, name in zip(runs, names, strict=True)], out, shown
    )
