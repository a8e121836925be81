"""Photographs per second that `predict` segments and writes, before and after a change, interleaved.

    python benchmarks/predict.py runs/animals path/to/photographs --before path/to/another/checkout \
        --runtimes pytorch auto --count 300 --turns 3

The first COUNT photographs are resized to a long side of 320 pixels. Each checkout predicts all of them with
each runtime in turns, in a process of its own that is warmed up with a few, and then as a whole command; the
table holds the medians. "CPU, s" is the processor time of the command. "same class" is the fraction of all
pixels with the class of the first row. `--busy` keeps one core busy meanwhile, as another program on the
machine would.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from checkouts import HERE, Checkout, answer_requests
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from segdistill.config.deploy import RuntimeName

FEW = 4
"""Photographs that a process is warmed up with."""

SPIN = "while True:\n    pass"


def predict(target: str, folder: str, out: str, runtime: RuntimeName) -> dict[str, float]:
    """Seconds to the first result and to the last one."""
    import segdistill

    config = segdistill.PredictConfig(out=out, device="cpu", runtime=runtime)
    started = time.perf_counter()
    seconds = [time.perf_counter() - started for _ in segdistill.predict(target, [folder], config)]
    return {"first": seconds[0], "all": seconds[-1]}


def command(root: Path, target: str, folder: str, out: str, runtime: RuntimeName) -> dict[str, float]:
    """Seconds of the whole command, and those of the processor."""
    words = ["predict", target, folder, "--out", out, "--device", "cpu", "--runtime", runtime]
    started, before = time.perf_counter(), os.times()
    subprocess.run(
        [sys.executable, "-m", "segdistill.cli", *words],
        env=os.environ | {"PYTHONPATH": str((root / "src").resolve())},
        capture_output=True,
        check=True,
    )
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"command": time.perf_counter() - started, "cpu": cpu}


def same_class(one: Path, other: Path) -> float:
    """The fraction of pixels whose class is the same in the masks of two folders."""
    same = pixels = 0
    for path in sorted(one.rglob("*.png")):
        with Image.open(path) as image, Image.open(other / path.relative_to(one)) as second:
            equal = np.asarray(image) == np.asarray(second)
        same, pixels = same + int(equal.sum()), pixels + equal.size
    return same / pixels


def write_photographs(source: Path, folder: Path, count: int, long_side: int) -> None:
    """The first photographs of a folder, resized and upright, as JPEG files."""
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(found) < count:
        raise SystemExit(f"{source} holds {len(found)} photographs, but {count} are wanted")
    folder.mkdir()
    for path in found[:count]:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        scale = long_side / max(upright.size)
        size = (max(1, round(upright.width * scale)), max(1, round(upright.height * scale)))
        upright.resize(size, Image.Resampling.BICUBIC).save(folder / f"{path.stem}.jpg", quality=95)


def measure(
    target: str, folder: Path, roots: dict[str, Path], ways: list[tuple[str, str]], turns: int
) -> dict[tuple[str, str], dict[str, float]]:
    """Median seconds of each way, a checkout's name and a runtime; the ways take turns.

    Args:
        target: a network.
        folder: with the folders `few` and `all` of photographs; gets the masks, in `CHECKOUT/RUNTIME`.
        roots: the checkouts by name.
        ways: what is measured.
        turns: how many times.
    """
    times: dict[tuple[str, str], list[dict[str, float]]] = {way: [] for way in ways}
    with ExitStack() as stack:
        processes = {form: Checkout(root, __file__) for form, root in roots.items()}
        for process in processes.values():
            stack.callback(process.close)
        for turn in range(turns + 1):
            for form, runtime in ways:
                asked = {
                    "target": target, "folder": str(folder / ("all" if turn else "few")),
                    "out": str(folder / form / runtime), "runtime": runtime,
                }  # fmt: skip
                found = processes[form].ask(**asked)
                if turn:
                    times[form, runtime].append(found | command(roots[form], **asked))
    return {
        way: {key: statistics.median(taken[key] for taken in found) for key in found[0]}
        for way, found in times.items()
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="a run folder or another network")
    parser.add_argument("photographs", type=Path, help="a folder of photographs")
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare this one with")
    parser.add_argument("--runtimes", nargs="+", default=["pytorch"], help="of a run folder")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--long_side", type=int, default=320)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="keep one core busy")
    options = parser.parse_args()
    target = str(Path(options.target).resolve()) if Path(options.target).exists() else options.target
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        write_photographs(options.photographs, folder / "few", min(FEW, options.count), options.long_side)
        write_photographs(options.photographs, folder / "all", options.count, options.long_side)
        if options.busy:
            busy = subprocess.Popen([sys.executable, "-c", SPIN])
            stack.callback(busy.kill)
        roots = {"before": options.before, "after": HERE}
        ways = list(itertools.product(roots, options.runtimes))
        medians = measure(target, folder, roots, ways, options.turns)
        masks = [folder / form / runtime for form, runtime in ways]
        equal = [same_class(masks[0], other) for other in masks]
    table = Table(title=f"{options.count} photographs of {options.long_side} pixels")
    for column in (
        "", "images/s", "first result after, s", "times as fast", "whole command, s", "times as fast",
        "CPU, s", "same class",
    ):  # fmt: skip
        table.add_column(column, justify="right" if column else "left")
    first = medians[ways[0]]
    for way, same in zip(ways, equal, strict=True):
        median = medians[way]
        table.add_row(
            ", ".join(way),
            f"{options.count / median['all']:.1f}",
            f"{median['first']:.2f}",
            f"{first['all'] / median['all']:.2f}",
            f"{median['command']:.1f}",
            f"{first['command'] / median['command']:.2f}",
            f"{median['cpu']:.1f}",
            f"{same:.5%}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    if sys.argv[1:] == ["--answer"]:
        answer_requests(predict)
    else:
        main()
