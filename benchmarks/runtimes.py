"""A run in each runtime, image by image as `segdistill predict` computes it: the table of docs/deploy.md.

    python benchmarks/runtimes.py pretrained/voc-animals ../shared/data/voc-animals --size 320

Times are of the processor, on one thread: they hardly depend on what else the machine does. Decoding and
writing are left out. Passes are made in turns. With `--requests`, OpenVINO's wall-clock time for all images
one after the other on two threads is compared with two requests at a time on one thread each.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import segdistill
from segdistill.config.deploy import LoadConfig
from segdistill.data.datasets import open_dataset
from segdistill.data.images import read_image
from segdistill.inference.prediction import network_input
from segdistill.models.exported import ExportedNetwork
from segdistill.models.openvino_graphs import openvino_core

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


def requests(run: str, paths: list[Path], size: int, turns: int) -> None:
    """Print the wall-clock time per image of one request on two threads, and of two on one thread each."""
    from openvino import AsyncInferQueue

    segmenter = segdistill.load(run, LoadConfig(runtime="openvino", size=size, device="cpu"))
    assert isinstance(segmenter.network.module, ExportedNetwork)
    model = openvino_core().read_model(Path(run) / "runtimes" / "model.xml")
    inputs = [network_input(read_image(path), size)[None].float().numpy() for path in paths]

    def compiled(hint: str) -> object:
        settings = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32"}
        return openvino_core().compile_model(model, "CPU", settings)

    single, pool = compiled("LATENCY"), AsyncInferQueue(compiled("THROUGHPUT"), 2)

    def one_by_one() -> None:
        for values in inputs:
            single(values)  # type: ignore[operator]

    def two_at_a_time() -> None:
        for values in inputs:
            pool.start_async(values)
        pool.wait_all()

    ways: dict[str, Callable[[], None]] = {"one request": one_by_one, "two requests": two_at_a_time}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            if turn:
                seconds[name].append((time.perf_counter() - started) / len(inputs))
    for name, times in seconds.items():
        print(f"{name:14} {1000 * statistics.median(times):7.1f} ms, fastest {1000 * min(times):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("data", help="a data set; images of its split val")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--requests", action="store_true")
    options = parser.parse_args()
    samples = open_dataset(options.data, "val")
    paths = [samples.files(index).image for index in range(options.count)]
    measure = requests if options.requests else processor_times
    measure(options.run, paths, options.size, options.turns)


if __name__ == "__main__":
    main()
