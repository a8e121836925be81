"""Exports students of several families of encoders in several formats, and compares each with PyTorch.

    python benchmarks/encoder_exports.py --formats onnx openvino pt2 executorch

Weights are random. A cell is the fraction of pixels with the same class, the check that every export makes.
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import segdistill
from segdistill.config.architecture import Architecture
from segdistill.config.deploy import ExportConfig
from segdistill.data.labels import VOC
from segdistill.engine.run_folder import RunFolder
from segdistill.files import first_line
from segdistill.models.card import ModelCard
from segdistill.models.file_formats import FORMATS
from segdistill.models.zoo import build_model, input_statistics

ENCODERS = (
    "tf_efficientnet_lite0", "mobilenetv3_large_100", "mobilenetv4_conv_small", "repvit_m0_9", "fastvit_t8",
    "efficientvit_b0",
)  # fmt: skip
SIZE = 64


def export(encoder: str, decoder: str, form: str, folder: Path) -> str:
    """The agreement of one exported student, or why there is none."""
    network = Architecture(spec=f"timm:{encoder}", decoder=decoder)  # type: ignore[arg-type]
    torch.manual_seed(0)
    module = build_model(network, len(VOC)).eval()
    mean, std = input_statistics(module)
    assert mean is not None
    assert std is not None
    card = ModelCard(**vars(network), labels=VOC, size=SIZE, evaluate_size=SIZE, mean=mean, std=std)
    run = folder / f"{encoder}-{decoder}"
    run.mkdir(exist_ok=True)
    RunFolder(run).save_student(module, card)
    config = ExportConfig(format=form, out=str(run / f"model{FORMATS[form].suffix}"))  # type: ignore[arg-type]
    try:
        record = segdistill.export(run, replace(config, input="tensor"))
    except ValueError as error:
        return first_line(error)[:80]
    return f"{record['parity']['same_class']:.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS)
    parser.add_argument("--decoders", nargs="+", default=["fpn", "lraspp", "deeplab"])
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino", "pt2", "executorch"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"| encoder | decoder | {' | '.join(options.formats)} |")
    print("| --- " * (2 + len(options.formats)) + "|")
    with TemporaryDirectory() as folder:
        for encoder in options.encoders:
            for decoder in options.decoders:
                cells = [export(encoder, decoder, form, Path(folder)) for form in options.formats]
                print(f"| {encoder} | {decoder} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
