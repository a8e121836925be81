"""A network in every format beside PyTorch: latency, and how many pixels have the same class.

    python benchmarks/exported.py --size 256 256 --threads 2
    python benchmarks/exported.py --run pretrained/voc-animals --size 304 304 --first onnx

Without a run it is the reference student with random weights, which cost what trained ones cost; int8 is
calibrated on drawn images. Each target runs in a process of its own, and they take turns. The others are
compared with the first: plain eager float32 PyTorch, which hands freed memory back, or onnxruntime.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from inference import CLASSES, make_student
from rich.console import Console

from segdistill.config.deploy import BenchmarkConfig
from segdistill.data.labels import VOC
from segdistill.exporting.export import runs_here
from segdistill.exporting.parity import compare_logits, draw_images
from segdistill.exporting.quantize import QUANTIZERS
from segdistill.exporting.writers import WRITERS, trace
from segdistill.models.card import ModelCard, save_model
from segdistill.models.export_card import ExportCard
from segdistill.models.file_formats import FORMATS, format_of
from segdistill.models.trained import TrainedNetwork, load_network
from segdistill.profiling.benchmark import measure
from segdistill.reporting.tables import benchmark_lines, benchmark_table
from segdistill.version import __version__

OTHERS = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50")


def write_run(folder: Path, width: float) -> None:
    """A run folder with a student that nobody trained."""
    folder.mkdir()
    card = ModelCard(spec="dsunet", width=width, labels=VOC, size=256, evaluate_size=None)
    save_model(folder, make_student(width).state_dict(), card)


def write_files(network: TrainedNetwork, folder: Path, side: int) -> list[str]:
    """The network in every format, and in int8; tensors in, logits out, as in PyTorch."""
    images = list(draw_images(20, side, side, torch.Generator().manual_seed(1)))
    files = []
    for form, write in WRITERS.items():
        card = ExportCard(
            labels=network.labels, mean=network.mean, std=network.std, source=network.spec,
            version=__version__, side=side if FORMATS[form].square else None,
        )  # fmt: skip
        path = folder / f"student{FORMATS[form].suffix}"
        write(trace(network, card, form, int8=False), path, card)
        files.append(str(path))
        if form in QUANTIZERS:
            path = folder / f"student-int8{FORMATS[form].suffix}"
            QUANTIZERS[form](trace(network, card, form, int8=True), path, card, images)
            files.append(str(path))
    return files


def print_parity(files: list[str], reference: TrainedNetwork) -> list[str]:
    """Say how far each file computes what the reference does; the files that can be run here."""
    runnable = []
    for file in files:
        form = format_of(file)
        assert form is not None
        if not runs_here(form):
            print(f"{Path(file).name}: written, not run here ({form.system} only)")
            continue
        runnable.append(file)
        parity = compare_logits(reference, load_network(file))
        difference = parity["logit_difference"]
        print(
            f"{Path(file).name}: same class {parity['same_class']:.4%}, largest logit difference "
            f"{difference:.2g}"
        )
    return runnable


def main() -> None:
    """Print the table and, as JSON, the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--run", type=Path, help="a run folder in place of the reference student")
    parser.add_argument(
        "--first", choices=("eager", "onnx"), default="eager", help="what others are compared with"
    )
    parser.add_argument("--others", action="store_true", help="torchvision's networks too, in PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "dsunet"
        write_run(run, options.width)
        run = options.run or run
        reference = load_network(str(run))
        files = print_parity(write_files(reference, Path(folder), options.size[0]), reference)
        config = BenchmarkConfig(
            precisions=["fp32", "bf16"], size=tuple(options.size), batch=options.batch,
            threads=options.threads, repeats=options.repeats, classes=CLASSES,
        )  # fmt: skip
        first = [files[0], str(run)] if options.first == "onnx" else [str(run), files[0]]
        record = measure([*first, *files[1:], *(OTHERS if options.others else ())], config)
    for entry in record["entries"]:
        entry["target"] = Path(entry["target"]).name
    console = Console(width=150)
    console.print(benchmark_table(record), *benchmark_lines(record), sep="\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
