"""A run in each runtime, image by image as `segdistill predict` computes it: the table of docs/deploy.md.

    python benchmarks/runtimes.py pretrained/voc-animals ../shared/data/voc-animals --size 320

Times are of the processor, on one thread: they hardly depend on what else the machine does. Decoding and
writing are left out. Passes are made in turns.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import segdistill
from segdistill.config.deploy import LoadConfig
from segdistill.data.datasets import open_dataset
from segdistill.data.images import read_image

WAYS = [
    ("pytorch", "fp32"),
    ("pytorch", "bf16"),
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
]


def processor_times(run: str, paths: list[Path], size: int, turns: int) -> None:
    """Print the median processor time of an image, and the share of pixels with PyTorch's class."""
    torch.set_num_threads(1)
    segmenters = {
        way: segdistill.load(run, LoadConfig(runtime=way[0], precision=way[1], size=size, device="cpu"))  # type: ignore[arg-type]
        for way in WAYS
    }
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    same: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    for turn in range(turns + 1):
        for image in map(read_image, paths):
            expected = None
            for way, segment in segmenters.items():
                started = time.process_time()
                mask = segment(image).mask
                if turn:  # the first is a warm-up
                    seconds[way].append(time.process_time() - started)
                expected = mask if expected is None else expected
                same[way].append(float((mask == expected).mean()))
    for way in WAYS:
        print(
            f"{' '.join(way):14} {1000 * statistics.median(seconds[way]):7.1f} ms  {np.mean(same[way]):.4%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("data", help="a data set; images of its split val")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    samples = open_dataset(options.data, "val")
    paths = [samples.files(index).image for index in range(options.count)]
    processor_times(options.run, paths, options.size, options.turns)


if __name__ == "__main__":
    main()
