"""A run in every format that it can be exported to, beside PyTorch: the table of docs/deploy.md.

    python benchmarks/parity.py pretrained/voc-animals --data ../shared/data/voc-animals

Each line is one `segdistill export` and its certificate, on all images of the split; no file is kept. PyTorch
and the file are timed in turns, one pass over one image each. OpenVINO's files are also certified as they run
in bf16.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import segdistill
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.verify import VerifyConfig
from segdistill.models.file_formats import FORMATS
from segdistill.reporting.evidence import points

VARIANTS = [
    {"format": "onnx"},
    {"format": "onnx", "quantize": "int8"},
    {"format": "openvino"},
    {"format": "openvino", "quantize": "int8"},
    {"format": "pt2"},
    {"format": "executorch"},
    {"format": "litert"},
    {"format": "litert", "quantize": "int8"},
    {"format": "ncnn"},
    {"format": "coreml"},
]
COLUMNS = (
    "file",
    "MB",
    "same class",
    "mIoU, PyTorch",
    "file minus PyTorch, points",
    "ms, PyTorch",
    "file",
    "ratio",
)


def export(options: argparse.Namespace, variant: dict[str, str], path: Path) -> dict[str, Any]:
    """Write one file, with its certificate where it runs here; its record."""
    config = ExportConfig(
        **variant,  # type: ignore[arg-type]
        out=str(path),
        data=EvaluationDataConfig(root=options.data),
        images=options.images,
        calibration=options.calibration,
        max_loss=100.0,  # the table is to show it
    )
    return segdistill.export(options.run, config)


def certify_in_bf16(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """The certificate of an OpenVINO file as it runs in bf16."""
    return segdistill.verify(
        path,
        VerifyConfig(
            against=options.run,
            data=EvaluationDataConfig(root=options.data),
            images=options.images,
            precision="bf16",
            max_loss=100.0,
            out=str(path.with_name("bf16.json")),
        ),
    )


def row(name: str, size: int | None, certificate: dict[str, Any]) -> list[str]:
    """One line of the table."""
    [difference] = certificate["differences"]
    value, low, high = (points(difference["miou"][key]) for key in ("value", "low", "high"))
    before, after = (network["latency"]["median_ms"] for network in certificate["networks"])
    return [
        name,
        "" if size is None else f"{size / 1e6:.1f}",
        f"{certificate['equal_pixels']:.2%}",
        f"{certificate['networks'][0]['miou']['value']:.4f}",
        f"{value} ({low} to {high})",
        f"{before:.1f}",
        f"{after:.1f}",
        f"{after / before:.2f}",
    ]


def rows(options: argparse.Namespace, variant: dict[str, str], path: Path) -> list[list[str]]:
    """The lines of one variant: one, or two where it also runs in bf16."""
    record = export(options, variant, path)
    name, size = ", ".join(variant.values()), record["bytes"]
    certificate = path.with_name(f"{path.name}.certificate.json")
    if not certificate.exists():
        return [[name, f"{size / 1e6:.1f}", "not run here", "", "", "", "", ""]]
    lines = [row(name, size, json.loads(certificate.read_text()))]
    if variant["format"] == "openvino" and not options.float:
        lines.append(row(f"{name}, `--precision bf16`", None, certify_in_bf16(options, path)))
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--data", required=True, help="a data set with masks")
    parser.add_argument("--calibration", help="a folder of images, for int8; the run's own where absent")
    parser.add_argument("--images", type=int, default=0, help="of the data set; 0 takes all")
    parser.add_argument("--formats", help="comma-separated; all where absent")
    parser.add_argument("--float", action="store_true", help="leave bf16 out: the processor has none")
    options = parser.parse_args()
    table = Table(*COLUMNS)
    formats = options.formats.split(",") if options.formats else list(FORMATS)
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as folder:
        for number, variant in enumerate(VARIANTS):
            if variant["format"] not in formats:
                continue
            path = Path(folder) / f"{number}{FORMATS[variant['format']].suffix}"
            for line in rows(options, variant, path):
                table.add_row(*line)
                print(" | ".join(line), flush=True)
    console.print(table)


if __name__ == "__main__":
    main()
