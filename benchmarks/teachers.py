"""Scores teachers as a training sees them: one, mirrored, in several sizes, several networks averaged.

    python benchmarks/teachers.py ../shared/data/voc-animals ../shared/weights/voc_teacher.py:build \
        pretrained/voc-animals

Images keep their size, and each network gets them `--scale` times as large.
"""

import argparse
from typing import Any

from segdistill.build import open_teacher
from segdistill.config.train import TeacherConfig
from segdistill.data.datasets import open_dataset
from segdistill.engine.evaluate import EvaluationOptions, evaluate
from segdistill.engine.runtime import make_accelerator

CLASSES = ("background", "cat", "cow", "dog", "horse", "person", "sheep")


def score(data: str, settings: dict[str, Any]) -> tuple[float, float, float]:
    """m7, mean IoU over the classes present, and pixel accuracy of a teacher."""
    samples = open_dataset(data, "val")
    teacher = open_teacher(TeacherConfig(**settings), samples.labels)
    assert teacher is not None
    accelerator = make_accelerator("cpu", "fp32")
    summary = evaluate(teacher, samples, samples.labels, accelerator, EvaluationOptions()).summary()
    m7 = sum(summary["iou"][name] for name in CLASSES) / len(CLASSES)
    return m7, summary["miou"], summary["pixel_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--scale", type=float, default=1.6)
    parser.add_argument("--output_stride", type=int, default=16)
    options = parser.parse_args()
    common = {"scale": options.scale, "output_stride": options.output_stride}
    print("| teacher | mirrored | m7 | mean IoU | pixel accuracy |")
    print("| --- | --- | --- | --- | --- |")
    teachers: list[list[str]] = [[network] for network in options.networks]
    if len(options.networks) > 1:
        teachers.append(options.networks)
    for specs in teachers:
        for flip in (False, True):
            scores = score(options.data, {"spec": specs, "flip": flip, **common})
            cells = " | ".join(f"{value:.4f}" for value in scores)
            print(f"| {' and '.join(specs)} | {'yes' if flip else 'no'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
