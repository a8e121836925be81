"""Seconds of an evaluation and of its boundary IoU, before and after a change, interleaved.

    python benchmarks/evaluation.py pretrained/voc-animals path/to/data --before path/to/another/checkout

Each checkout scores the whole validation split in turns, in a process of its own; the table holds the
medians, and the script fails where a score that both have differs.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from checkouts import HERE, Checkout, answer_requests
from rich.console import Console
from rich.table import Table


def evaluate(target: str, root: str, split: str, out: str) -> dict[str, Any]:
    """The scores, the seconds, and those of them that boundary bands took."""
    import segdistill
    from segdistill.engine import metrics

    overlap = metrics.boundary_overlap
    seconds = 0.0

    def timed(*given: Any) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        found = overlap(*given)
        seconds += time.perf_counter() - started
        return found

    metrics.boundary_overlap = timed
    try:
        data = type(segdistill.EvaluateConfig().data)(root=root, split=split, workers=0)
        config = segdistill.EvaluateConfig(data=data, out=out, device="cpu")
        run = segdistill.evaluate  # which imports what it needs
        started = time.perf_counter()
        scores = run(target, config)
        total = time.perf_counter() - started
    finally:
        metrics.boundary_overlap = overlap
    own = {"images", "images_per_second"}  # a single image's mean IoU has another convention by now
    return {
        "all": total,
        "boundary": seconds,
        "count": scores["image_count"],
        "scores": {name: value for name, value in scores.items() if name not in own},
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="a run folder or another network")
    parser.add_argument("data", help="the data set's root")
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare this one with")
    parser.add_argument("--split", default="val")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    target = str(Path(options.target).resolve()) if Path(options.target).exists() else options.target
    root = str(Path(options.data).resolve())
    found: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = {form: Checkout(options.before if form == "before" else HERE, __file__) for form in found}
        for process in processes.values():
            stack.callback(process.close)
        for _ in range(options.turns):
            for form, process in processes.items():
                out = str(Path(folder) / f"{form}.json")
                found[form].append(process.ask(target=target, root=root, split=options.split, out=out))
    before, after = (turns[0]["scores"] for turns in found.values())
    different = [name for name in before if before[name] != after[name]]
    if different:
        raise SystemExit(f"these scores differ: {', '.join(different)}")
    table = Table(title=f"evaluation of {found['after'][0]['count']} images")
    for column in ("", "seconds", "of them boundary IoU", "fraction"):
        table.add_column(column, justify="right" if column else "left")
    for form, turns in found.items():
        total, boundary = (statistics.median(turn[key] for turn in turns) for key in ("all", "boundary"))
        table.add_row(form, f"{total:.1f}", f"{boundary:.2f}", f"{boundary / total:.0%}")
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:] == ["--answer"]:
        answer_requests(evaluate)
    else:
        main()
