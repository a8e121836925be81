"""A run in every format that it can be exported to, beside PyTorch: the table of docs/deploy.md.

    python benchmarks/parity.py pretrained/voc-animals --data ../shared/data/voc-animals \
        --calibration ../shared/data/animals-unlabelled

Each line is one `segdistill export`, scored on all images of the split; none is kept. OpenVINO's files
are also scored as they are run in bf16.
"""

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import segdistill
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.exporting.parity import compare
from segdistill.models.exported import FORMATS
from segdistill.models.trained import load_network

KINDS = [
    {"format": "onnx"},
    {"format": "onnx", "input": "tensor", "output": "mask"},
    {"format": "openvino"},
    {"format": "pt2"},
    {"format": "executorch"},
    {"format": "onnx", "quantize": "int8"},
    {"format": "openvino", "quantize": "int8"},
]


def main() -> None:
    """Print the table, and the records as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--data", required=True, help="a data set with masks")
    parser.add_argument("--calibration", required=True, help="a folder of images, for 8 bits")
    parser.add_argument("--images", type=int, default=0, help="of the data set; 0 takes all")
    options = parser.parse_args()
    table = Table()
    for column in ("file", "MB", "largest logit difference", "same class", "mIoU before", "after", "images"):
        table.add_column(column, justify="left" if column == "file" else "right")
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(KINDS):
            config = ExportConfig(
                **kind,  # type: ignore[arg-type]
                out=str(Path(folder) / f"{number}{FORMATS[kind['format']].suffix}"),
                data=EvaluationDataConfig(root=options.data),
                images=options.images,
                calibration=options.calibration,
                max_loss=100.0,  # the table is to show it
            )
            record = segdistill.export(options.run, config)
            records.append(record)
            parity = record["parity"]
            difference = parity["logit_difference"]
            table.add_row(
                ", ".join(kind.values()),
                f"{record['bytes'] / 1e6:.1f}",
                "" if difference is None else f"{difference:.2g}",
                f"{parity['same_class']:.3%}",
                f"{parity['miou_before']:.4f}",
                f"{parity['miou_after']:.4f}",
                str(parity["images"]),
            )
            if kind["format"] == "openvino":
                loaded = load_network(record["file"], precision="bf16")
                shown = compare(load_network(options.run), loaded)
                scores = segdistill.evaluate(
                    record["file"],
                    EvaluateConfig(
                        data=EvaluationDataConfig(root=options.data),
                        precision="bf16",
                        out=str(Path(folder) / "metrics.json"),
                    ),
                )
                table.add_row(
                    ", ".join([*kind.values(), "run in bf16"]), "", f"{shown['logit_difference']:.2g}",
                    f"{shown['same_class']:.3%}", f"{parity['miou_before']:.4f}", f"{scores['miou']:.4f}",
                    str(scores["image_count"]),
                )  # fmt: skip
    Console(width=120).print(table)
    print(json.dumps(records))


if __name__ == "__main__":
    main()
