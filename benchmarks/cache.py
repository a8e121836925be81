"""What the teacher's cache costs and what it changes: bytes per image, fill rate, and the error of its crops.

    python benchmarks/cache.py --config configs/voc-animals-short.yaml --images 200

The error is measured on training crops: cached logits against what the live teacher answers to the same whole
image (rounding and interpolation), and to the crop alone (the context that a crop lacks).
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from segdistill.build import build_experiment
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load
from segdistill.data.cache.teacher import cut_logits, image_key, to_grid
from segdistill.data.datasets import open_dataset
from segdistill.data.transforms import apply_crop, draw_crop, normalise
from segdistill.engine.fill_caches import TeacherPass, open_teacher_cache
from segdistill.engine.runtime import make_accelerator


def disagreement(cached: torch.Tensor, live: torch.Tensor, valid: torch.Tensor) -> tuple[float, float, float]:
    """Mean absolute difference, KL in nats, and fraction of pixels of another class, where `valid`."""
    a, b = cached[:, valid].float(), live[:, valid].float()
    kl = F.kl_div(a.log_softmax(0), b.log_softmax(0), log_target=True, reduction="none").sum(0).mean()
    other = (a.argmax(0) != b.argmax(0)).float().mean()
    return float((a - b).abs().mean()), float(kl), float(other)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    config = load(TrainConfig, options.config)
    accelerator = make_accelerator(config.device, config.runtime.precision)
    whole = build_experiment(config)
    assert whole.teacher is not None
    chosen = open_dataset(config.data.root, config.data.split, layout=config.data.layout)
    samples = chosen.subset(np.arange(len(chosen)) < options.images)
    teacher = whole.teacher.to(accelerator.device)
    table = Table(
        title=f"{options.images} images, teacher.scale {config.teacher.scale}, crops of {config.size}"
    )
    for column in ("form", "bytes/image", "images/s", "against", "mean |error|", "KL, nats", "other class"):
        table.add_column(column, justify="left" if column in {"form", "against"} else "right")
    for topk in (0, 4, 2):
        with TemporaryDirectory() as folder:
            settings = replace(config, teacher=replace(config.teacher, cache=folder, cache_topk=topk))
            started = time.perf_counter()
            experiment = replace(whole, config=settings, files=samples)
            cache = open_teacher_cache(experiment, accelerator).logits
            rate = len(samples) / (time.perf_counter() - started)
            size = cache.bytes / len(samples)
            teacher_pass = TeacherPass(experiment, accelerator)
            found: dict[str, list[tuple[float, float, float]]] = {"the whole image": [], "the crop": []}
            for index in range(len(samples)):
                image, mask, _, _ = samples[index]
                shape = (image.shape[1], image.shape[2])
                crop = draw_crop(*shape, config.size, config.augment, np.random.default_rng((0, index)))
                pixels, _, valid = apply_crop(image, mask, crop)
                files = samples.files(index)
                stored = cache.read(image_key(files.id, files.image, files.bits), shape)
                assert stored is not None
                cached = cut_logits(stored, crop, shape, shape, cache.form).interpolate()
                full = teacher_pass(image, cache.form.unscaled_size(shape)).logits.cpu()
                fine = replace(cache.form, stride=1, grid="stretched")
                exact = cut_logits(
                    to_grid(full, fine.grid_size(shape), False), crop, shape, shape, fine
                ).interpolate()
                found["the whole image"].append(disagreement(cached, exact, valid))
                image = normalise(pixels.to(accelerator.device))[None]
                found["the crop"].append(disagreement(cached, teacher(image)[0].cpu(), valid))
        for name, errors in found.items():
            mean = np.mean(errors, axis=0)
            table.add_row(
                f"top {topk}" if topk else "all classes", f"{size:,.0f}", f"{rate:.1f}", name,
                f"{mean[0]:.4f}", f"{mean[1]:.5f}", f"{mean[2]:.3%}",
            )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
