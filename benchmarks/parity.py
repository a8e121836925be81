"""A run in every format that it can be exported to, beside PyTorch: the table of docs/deploy.md.

    python benchmarks/parity.py pretrained/voc-animals-reference --data ../shared/data/voc-animals \
        --calibration ../shared/data/animals-unlabelled

Each line is one `segdistill export`, scored on all images of the split; no file is kept. OpenVINO's files
are also scored as they run in bf16.
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
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.exporting.parity import compare
from segdistill.models.exported import FORMATS
from segdistill.models.trained import load_network

VARIANTS = [
    {"format": "onnx"},
    {"format": "onnx", "input": "tensor", "output": "mask"},
    {"format": "openvino"},
    {"format": "pt2"},
    {"format": "executorch"},
    {"format": "onnx", "quantize": "int8"},
    {"format": "openvino", "quantize": "int8"},
    {"format": "litert"},
    {"format": "litert", "quantize": "int8"},
    {"format": "ncnn"},
]


def export(options: argparse.Namespace, variant: dict[str, str], path: Path) -> dict[str, Any]:
    """Write one file; its record."""
    config = ExportConfig(
        **variant,  # type: ignore[arg-type]
        out=str(path),
        data=EvaluationDataConfig(root=options.data),
        images=options.images,
        calibration=options.calibration,
        max_loss=100.0,  # the table is to show it
    )
    return segdistill.export(options.run, config)


def run_in_bf16(options: argparse.Namespace, record: dict[str, Any]) -> dict[str, Any]:
    """What `parity` of an OpenVINO file would be, were it compared as it runs in bf16."""
    scores = segdistill.evaluate(
        record["file"],
        EvaluateConfig(
            data=EvaluationDataConfig(root=options.data),
            precision="bf16",
            out=str(Path(record["file"]).with_name("metrics.json")),
        ),
    )
    compared = compare(load_network(options.run), load_network(record["file"], precision="bf16"))
    before = record["parity"]["miou_before"]
    return compared | {
        "miou_before": before, "miou_after": scores["miou"], "images": scores["image_count"]
    }  # fmt: skip


def add_row(table: Table, name: str, size: int | None, parity: dict[str, Any]) -> None:
    """One line of the table."""
    difference = parity["logit_difference"]
    table.add_row(
        name,
        "" if size is None else f"{size / 1e6:.1f}",
        "" if difference is None else f"{difference:.2g}",
        f"{parity['same_class']:.3%}",
        f"{parity['miou_before']:.4f}",
        f"{parity['miou_after']:.4f}",
        str(parity["images"]),
    )


def main() -> None:
    """Print the table, and the records as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--data", required=True, help="a data set with masks")
    parser.add_argument("--calibration", required=True, help="a folder of images, for int8")
    parser.add_argument("--images", type=int, default=0, help="of the data set; 0 takes all")
    options = parser.parse_args()
    table = Table()
    for column in ("file", "MB", "largest logit difference", "same class", "mIoU before", "after", "images"):
        table.add_column(column, justify="left" if column == "file" else "right")
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for number, variant in enumerate(VARIANTS):
            path = Path(folder) / f"{number}{FORMATS[variant['format']].suffix}"
            record = export(options, variant, path)
            records.append(record)
            name = ", ".join(variant.values())
            add_row(table, name, record["bytes"], record["parity"])
            if variant["format"] == "openvino":
                add_row(table, f"{name}, run in bf16", None, run_in_bf16(options, record))
    Console(width=120).print(table)
    print(json.dumps(records))


if __name__ == "__main__":
    main()
