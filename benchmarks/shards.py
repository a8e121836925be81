"""Many unlabelled images in tar files against the same images in a folder: start, speed and memory.

    python benchmarks/shards.py path/to/scratch

draws the images (few pictures, each under many names: the names are what is many), writes them into tar
files with `segdistill data shard`, and reads both, each time in a process of its own, in turns. "The first
time" is without an index of the tar files, as on the first start; it is deleted before. All files are in the
system's cache: what a disk adds is left out.
"""

import argparse
import pickle
import shutil
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from memory import children, private_megabytes
from PIL import Image
from rich.console import Console
from rich.table import Table

from segdistill.config.train import DataConfig, TrainConfig
from segdistill.data.datasets import open_unlabelled
from segdistill.data.formats.tar import TarIndex
from segdistill.data.labels import VOC
from segdistill.data.loaders import training_batches
from segdistill.inspecting import shard_images

PICTURES = 200
"""Different pictures."""
EACH = 1000
"""Images in a folder, and in a tar file."""
BATCH = 16
READS = 2000
"""Images that are read in the process itself."""
MEASURES = {
    "open": "until the data set is open, s",
    "first": "until the first batch, s",
    "speed": "images/s",
    "read": "processor time to read one image, microseconds",
    "worker": "private memory of a loader process, MB",
    "travels": "sent to each loader process that is spawned, MB",
}


def draw(folder: Path, count: int) -> None:
    """Write `count` JPEG files of 96 x 72 pixels into folders of `EACH`."""
    drawn, rng = folder.with_name("pictures"), np.random.default_rng(0)
    drawn.mkdir(parents=True)
    for number in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(drawn / f"{number}.jpg", quality=85)
    contents = [path.read_bytes() for path in sorted(drawn.iterdir())]
    for start in range(0, count, EACH):
        (folder / f"{start // EACH:04d}").mkdir(parents=True)
        for number in range(start, min(start + EACH, count)):
            path = folder / f"{start // EACH:04d}" / f"photo-{number:08d}.jpg"
            path.write_bytes(contents[number % PICTURES])
    shutil.rmtree(drawn)


def read(source: str, batches: int) -> dict[str, float]:
    """Open a source, read its batches with two loader processes, and measure; for a process of its own."""
    begun = time.perf_counter()
    samples = open_unlabelled(source, VOC)
    opened = time.perf_counter()
    config = TrainConfig(data=DataConfig(workers=2), size=64, batch=BATCH, steps=batches)
    stream = iter(training_batches(samples, config, range(batches + 8)))
    next(stream)
    first = time.perf_counter()
    for _ in islice(stream, batches - 1):
        pass
    ended = time.perf_counter()
    chosen = np.random.default_rng(0).integers(0, len(samples), READS).tolist()
    busy = time.process_time()
    for index in chosen:
        samples[index]
    busy = time.process_time() - busy
    workers = [private_megabytes(child) for child in children()]
    return {
        "images": len(samples),
        "open": opened - begun,
        "first": first - begun,
        "speed": BATCH * (batches - 1) / (ended - first),
        "read": 1e6 * busy / READS,
        "worker": max(workers),
        "travels": len(pickle.dumps(samples)) / 1e6,
    }


def delete_indexes(shards: Path) -> None:
    """Delete the indexes of some tar files from the user's cache, and no others."""
    for path in shards.glob("*.tar"):
        TarIndex(path).file.unlink(missing_ok=True)


def measured(source: Path, batches: int) -> dict[str, float]:
    """What `read` gives, from a process of its own: forked, for then it has imported everything."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(read, str(source), batches).result()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="gets images and tar files; delete it afterwards")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--batches", type=int, default=400, help=f"batches of {BATCH} per turn")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos, shards = options.folder / "photos", options.folder / "shards"
    if not photos.exists():
        draw(photos, options.images)
    shard_images(photos, shards, each=EACH)
    columns = {"folder": photos, "tar files, the first time": shards, "tar files": shards}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in columns}
    for _ in range(options.turns):
        for name, source in columns.items():
            if "first" in name:
                delete_indexes(shards)
            found[name].append(measured(source, options.batches))
            print(name, found[name][-1], file=sys.stderr)
    index = sum(TarIndex(path).file.stat().st_size for path in shards.glob("*.tar"))
    delete_indexes(shards)
    table = Table(title=f"{found['folder'][0]['images']:,} images, medians of {options.turns} turns")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for key, text in MEASURES.items():
        medians = [statistics.median(turn[key] for turn in turns) for turns in found.values()]
        table.add_row(text, *(f"{median:,.4g}" for median in medians))
    for key in ("speed", "read"):
        both = [zip(turns, found["folder"], strict=True) for turns in found.values()]
        ratios = [[turn[key] / base[key] for turn, base in pairs] for pairs in both]
        texts = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios]
        table.add_row(f"{MEASURES[key].partition(',')[0]}, against the folder", *texts)
    console = Console(width=130)
    console.print(table)
    console.print(f"The indexes of {len(list(shards.glob('*.tar')))} tar files take {index / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
