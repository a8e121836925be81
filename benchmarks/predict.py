"""Photographs per second that `predict` segments and writes, before and after a change, interleaved.

    python benchmarks/predict.py pretrained/voc-animals path/to/photographs --before path/to/another/checkout

The first COUNT photographs are resized to a long side of 320 pixels. Each checkout predicts all of them in
turns, in a process of its own that has done so once before; the table holds the medians. "same class" is the
fraction of all pixels with the same class in both. `--busy` keeps one core busy meanwhile, as another program
on the machine would.
"""

import argparse
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

SPIN = "while True:\n    pass"


def predict(target: str, folder: str, out: str) -> dict[str, float]:
    """Seconds to the first result and to the last one."""
    import segdistill

    config = segdistill.PredictConfig(out=out, device="cpu")
    started = time.perf_counter()
    seconds = [time.perf_counter() - started for _ in segdistill.predict(target, [folder], config)]
    return {"first": seconds[0], "all": seconds[-1]}


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
    for path in found[:count]:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        scale = long_side / max(upright.size)
        size = (max(1, round(upright.width * scale)), max(1, round(upright.height * scale)))
        upright.resize(size, Image.Resampling.BICUBIC).save(folder / f"{path.stem}.jpg", quality=95)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="a run folder or another network")
    parser.add_argument("photographs", type=Path, help="a folder of photographs")
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare this one with")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--long_side", type=int, default=320)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="keep one core busy")
    options = parser.parse_args()
    target = str(Path(options.target).resolve()) if Path(options.target).exists() else options.target
    table = Table(title=f"{options.count} photographs of {options.long_side} pixels")
    for column in ("", "images/s", "first result after, s", "times as fast", "same class"):
        table.add_column(column, justify="right" if column else "left")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        photographs = folder / "photographs"
        photographs.mkdir()
        write_photographs(options.photographs, photographs, options.count, options.long_side)
        roots = {"before": options.before, "after": HERE}
        processes = {form: Checkout(root, __file__) for form, root in roots.items()}
        for process in processes.values():
            stack.callback(process.close)
        if options.busy:
            busy = subprocess.Popen([sys.executable, "-c", SPIN])
            stack.callback(busy.kill)
        times: dict[str, list[dict[str, float]]] = {form: [] for form in roots}
        for turn in range(options.turns + 1):
            for form, process in processes.items():
                found = process.ask(target=target, folder=str(photographs), out=str(folder / form))
                if turn:
                    times[form].append(found)
        medians = {
            form: {key: statistics.median(taken[key] for taken in turns) for key in ("all", "first")}
            for form, turns in times.items()
        }
        equal = same_class(folder / "before", folder / "after")
    for form, median in medians.items():
        ratio = medians["before"]["all"] / median["all"]
        table.add_row(
            form,
            f"{options.count / median['all']:.1f}",
            f"{median['first']:.2f}",
            f"{ratio:.2f}",
            f"{equal:.4%}" if form == "after" else "",
        )
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:] == ["--answer"]:
        answer_requests(predict)
    else:
        main()
