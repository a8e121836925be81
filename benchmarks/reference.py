"""The distillation loop as one would write it by hand: the yardstick of every speed claim.

float32, NCHW, FCN-ResNet50 (random weights) asked at each step, PIL decoding and resizing in the loader,
Adam. Run alone, it prints its images/s; `training.py` compares the product with it.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from segdistill.models.student import DSUNet

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Voc(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks of a VOC split, stretched to size x size."""

    def __init__(self, devkit: Path, split: str, size: int) -> None:
        listed = (devkit / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        self.pairs = [
            (devkit / "JPEGImages" / f"{name}.jpg", devkit / "SegmentationClass" / f"{name}.png")
            for name in listed
        ]
        self.size = (size, size)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, mask_path = self.pairs[index]
        image = Image.open(image_path).convert("RGB").resize(self.size, Image.Resampling.BILINEAR)
        mask = Image.open(mask_path).resize(self.size, Image.Resampling.NEAREST)
        pixels = torch.from_numpy(np.array(image)).float() / 255
        return ((pixels - MEAN) / STD).permute(2, 0, 1), torch.from_numpy(np.array(mask)).long()


def make_teacher(classes: int = 21) -> nn.Module:
    """FCN-ResNet50 with random weights: its cost does not depend on them."""
    torch.manual_seed(1)
    teacher = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=classes
    )
    return teacher.eval().requires_grad_(False)


def steps(
    devkit: Path,
    student: DSUNet,
    teacher: nn.Module,
    *,
    size: int,
    batch: int,
    order: list[list[int]],
    device: str = "cpu",
    workers: int = 2,
    temperature: float = 2.0,
) -> Iterator[float]:
    """Train on the batches `order` (indices of `train`); yields the loss after each step."""
    loader = DataLoader(Voc(devkit, "train", size), batch_sampler=order, num_workers=workers)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    student.train()
    for image, mask in loader:
        image, mask = image.to(device), mask.to(device)
        with torch.no_grad():
            known = teacher(image)["out"]
        logits = student(image)
        hard = F.cross_entropy(logits, mask, ignore_index=255)
        soft = F.kl_div(
            F.log_softmax(logits / temperature, dim=1),
            F.log_softmax(known / temperature, dim=1),
            reduction="none",
            log_target=True,
        )
        loss = 0.7 * hard + 0.3 * temperature**2 * soft.sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def main() -> None:
    """Print the images/s of some steps after one to warm up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devkit", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    order = np.random.default_rng(0).permutation(len(Voc(options.devkit, "train", options.size)))
    batches = order[: (options.steps + 1) * options.batch].reshape(-1, options.batch).tolist()
    torch.manual_seed(0)
    loop = steps(
        options.devkit, DSUNet(21).to(options.device), make_teacher().to(options.device), size=options.size,
        batch=options.batch, order=batches, device=options.device,
    )  # fmt: skip
    next(loop)
    started = time.perf_counter()
    losses = list(loop)
    seconds = time.perf_counter() - started
    print(f"{options.batch * len(losses) / seconds:.2f} images/s, last loss {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
