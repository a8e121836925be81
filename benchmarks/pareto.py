"""Accuracy over latency of networks and input sizes: one table, one plot.

    python benchmarks/pareto.py benchmarks/pareto/voc-animals.yaml --out runs/pareto

Every point is scored on the same images, exported, and timed in turns with all others, so that a machine that
slows down slows all alike; each runtime has a process of its own. Scores and files are kept in --out and
not made again; times always are. A point whose network is not there yet is left out, and named.
"""

import argparse
import json
import os
import platform
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from rich.console import Console
from rich.table import Table

import segdistill
from segdistill.config.architecture import Architecture
from segdistill.data.datasets import open_dataset
from segdistill.data.transforms import scaled_size
from segdistill.engine.run_folder import RunFolder
from segdistill.models.card import ModelCard, is_run
from segdistill.models.spec import parse_spec
from segdistill.models.trained import load_network
from segdistill.models.zoo import build_model
from segdistill.profiling.benchmark import Entry, Measured
from segdistill.profiling.process import WorkerProcess
from segdistill.profiling.timing import count_operations, count_parameters, in_turns

RUNTIMES = {
    "OpenVINO": ("openvino", "fp32", False),
    "OpenVINO bf16": ("openvino", "bf16", False),
    "OpenVINO int8": ("openvino", "fp32", True),
    "onnxruntime": ("onnx", "fp32", False),
    "onnxruntime int8": ("onnx", "fp32", True),
}
"""Of each column: format of the file, precision that it is run in, whether it is in 8 bits."""
SCORES = ("miou_of_classes", "miou", "pixel_accuracy", "boundary_iou")
NOT_SHOWN = ("family", "size", "flip", "yardstick")
"""What the plot needs of a point beside its figures."""
SUFFIXES = {"openvino": ".xml", "onnx": ".onnx"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network at one input size, a line of the table.

    Attributes:
        name: how it is called.
        family: points that the plot joins by a line.
        target: any network spec; one without weights is timed, not scored.
        size: long side of its input, in pixels; the other one is `aspect` times as long.
        flip: averaged with the mirror image, at twice the time.
        output_stride: see `segdistill evaluate --output_stride`.
        int8: the 8-bit runtimes that it is timed in, too.
        architecture: further settings of a network without weights.
        yardstick: drawn as a line at its latency.
    """

    name: str
    family: str
    target: str
    size: int
    flip: bool = False
    output_stride: int | None = None
    int8: list[str] = field(default_factory=list)
    architecture: dict[str, Any] = field(default_factory=dict)
    yardstick: bool = False

    @property
    def network(self) -> str:
        """A file name for what it runs, whatever its input size."""
        settings = "".join(f"-{key}-{value}" for key, value in self.architecture.items())
        return self.target.replace("/", "-").replace(":", "-").strip(".-") + settings

    @property
    def is_trained(self) -> bool:
        """Whether it has weights to score."""
        return is_run(self.target) or parse_spec(self.target).kind == "function"

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Height and width of its input."""
        return scaled_size((round(aspect * self.size), self.size), output_stride=self.output_stride)


class Bench:
    """What is measured of the points of a grid.

    Args:
        grid: `data`, `split`, `classes`, `aspect`, `points`.
        out: keeps scores and exported files.
    """

    def __init__(self, grid: dict[str, Any], out: Path) -> None:
        self.grid, self.out, self.aspect = grid, out, float(grid["aspect"])
        self.data = segdistill.EvaluationDataConfig(root=grid["data"], split=grid["split"])

    def scores(self, point: Point) -> dict[str, Any]:
        """What `evaluate` gives for a point; empty where it has no weights."""
        path = self.out / "scores" / f"{point.name.replace(' ', '-')}.json"
        if not point.is_trained:
            return {}
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            config = segdistill.EvaluateConfig(
                data=self.data, size=point.size, flip=point.flip, output_stride=point.output_stride,
                classes=self.grid["classes"], out=str(path),
            )  # fmt: skip
            segdistill.evaluate(point.target, config)
        return json.loads(path.read_text())

    def cost(self, point: Point) -> tuple[int, float]:
        """Parameters, and billions of multiply-accumulates for one image."""
        network = load_network(self.source(point)).module
        operations = count_operations(network, torch.zeros(1, 3, *point.input_size(self.aspect)))
        return count_parameters(network), (2 if point.flip else 1) * operations / 2e9

    def source(self, point: Point) -> str:
        """The point's network, or a run folder with random weights of it."""
        if point.is_trained:
            return point.target
        folder = self.out / "random" / point.network
        if not is_run(folder):
            folder.mkdir(parents=True, exist_ok=True)
            labels = open_dataset(self.data.root, self.data.split).labels
            network = Architecture(spec=point.target, **point.architecture)
            card = ModelCard(**vars(network), labels=labels, size=point.size, evaluate_size=point.size)
            torch.manual_seed(0)
            RunFolder(folder).save_student(build_model(network, len(labels)).eval(), card)
        return str(folder)

    def file(self, point: Point, form: str, int8: bool) -> Path:
        """The exported network of a point."""
        path = self.out / "files" / f"{point.network}{'-int8' if int8 else ''}{SUFFIXES[form]}"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            config = segdistill.ExportConfig(
                format=form, out=str(path), quantize="int8" if int8 else None, input="tensor", max_loss=100.0,
                data=self.data, images=0 if int8 else 4, calibration=self.grid["calibration"],
            )  # fmt: skip
            segdistill.export(self.source(point), config)
        return path

    def milliseconds(self, points: list[Point], repeats: int, threads: int) -> dict[tuple[str, str], float]:
        """Median milliseconds of one image, by the point's name and the runtime."""
        entries: dict[str, dict[str, tuple[Entry, segdistill.BenchmarkConfig]]] = {}
        for point in points:
            config = segdistill.BenchmarkConfig(
                size=point.input_size(self.aspect), batch=2 if point.flip else 1, threads=threads
            )
            for runtime, (form, precision, int8) in RUNTIMES.items():
                if not int8 or runtime in point.int8:
                    file = str(self.file(point, form, int8))
                    entry = Entry(target=file, form=form, precision=precision)
                    entries.setdefault(runtime, {})[point.name] = entry, config
        keys, timers = [], []
        with ExitStack() as stack:
            for runtime, own in entries.items():
                process = stack.enter_context(WorkerProcess(Timed, own))
                for name in own:
                    keys.append((name, runtime))
                    timers.append(partial(process.call, "seconds", name))
            taken = in_turns(timers, warmup=3, repeats=repeats)
        return {key: 1000 * statistics.median(each) for key, each in zip(keys, taken, strict=True)}


class Timed:
    """The networks of one runtime, in the process that times them.

    Args:
        entries: by name, each with its input and threads.
    """

    def __init__(self, entries: dict[str, tuple[Entry, segdistill.BenchmarkConfig]]) -> None:
        self.networks = {name: Measured(*entry) for name, entry in entries.items()}

    def seconds(self, name: str) -> float:
        """Time of one pass."""
        return self.networks[name].seconds()


def read_points(grid: dict[str, Any]) -> list[Point]:
    """The points of a grid whose networks are there."""
    points = [Point(**point) for point in grid["points"]]
    there = []
    for point in points:
        try:
            parse_spec(point.target)
        except ValueError as error:
            print(f"{point.name} is left out: {error}")
        else:
            there.append(point)
    return there


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line per point; times are milliseconds."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=f"{machine}; milliseconds per image in each runtime, float32 unless named")
    titles = {"miou_of_classes": "mIoU of the classes", "miou": "mIoU of all present"}
    for column in (name for name in rows[0] if name not in NOT_SHOWN):
        title = titles.get(column, column.replace("_", " "))
        table.add_column(title, justify="left" if column == "name" else "right", no_wrap=column == "name")
    for row in rows:
        values = (value for name, value in row.items() if name not in NOT_SHOWN)
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else "-" if v is None else str(v) for v in values))
    Console(width=160).print(table)


def draw(rows: list[dict[str, Any]], runtime: str, path: Path) -> None:
    """Mean IoU over latency, one line per family, each point with its long side, as an SVG."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        if row["yardstick"]:
            axes.axvline(row[runtime], color="grey", linestyle=":", label=f"{row['name']} (latency only)")
    scored = [row for row in rows if row["miou_of_classes"] is not None]
    for family in dict.fromkeys(row["family"] for row in scored):
        own = sorted((row for row in scored if row["family"] == family), key=lambda row: row["GMACs"])
        x, y = [row[runtime] for row in own], [row["miou_of_classes"] for row in own]
        (line,) = axes.plot(x, y, marker="o", markersize=4, label=family)
        for row, *point in zip(own, x, y, strict=True):
            text = f"{row['size']} flipped" if row["flip"] else str(row["size"])
            axes.annotate(
                text,
                point,
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=line.get_color(),
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"milliseconds per image, {runtime}, 2 threads; numbers are the image's long side")
    axes.set_ylabel("mean IoU over 7 classes")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Score, export and time what is missing; print the table, and write it beside the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="keeps scores and files")
    parser.add_argument("--plot", type=Path, help="an SVG; pareto.svg in --out where absent")
    parser.add_argument("--runtime", default="OpenVINO", choices=RUNTIMES, help="of the plot")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    bench = Bench(yaml.safe_load(options.grid.read_text()), options.out)
    points = read_points(bench.grid)
    times = bench.milliseconds(points, options.repeats, options.threads)
    rows = []
    for point in points:
        found, (parameters, operations) = bench.scores(point), bench.cost(point)
        scores = {name: found.get(name) for name in SCORES}
        cost = {"parameters": parameters, "GMACs": operations}
        rows.append(
            {name: getattr(point, name) for name in NOT_SHOWN}
            | {"name": point.name, **scores, **cost}
            | {runtime: times.get((point.name, runtime)) for runtime in RUNTIMES}
        )
    print_table(rows)
    (options.out / "pareto.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw(rows, options.runtime, options.plot or options.out / "pareto.svg")


if __name__ == "__main__":
    main()
