"""Latency of networks in the forms that PyTorch can run them, interleaved; and how near it is to the memory.

    python benchmarks/inference.py --batch 1 --size 256 256

Every form of the student is compared with the plain eager float32 student (on a CPU in a process of its own
that hands freed memory back, as any does unless told not to): ratio of medians, and the share of pixels with
the same class. The last column compares with the time that the bytes alone must take.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from own_process import OwnProcess
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from segdistill.engine.runtime import keep_freed_memory
from segdistill.models.fused import fuse
from segdistill.models.student import Block, DSUNet
from segdistill.models.zoo import build_model

CLASSES = 21
PLAIN = "eager float32, memory handed back"
Form = Callable[[Tensor], Tensor]


def make_student(width: float) -> DSUNet:
    """A student with weights and statistics as after some training."""
    torch.manual_seed(0)
    student = DSUNet(CLASSES, width)
    with torch.no_grad():
        student.train()
        for _ in range(3):
            student(torch.randn(2, 3, 64, 64))
    return student.eval()


def cast(network: nn.Module, dtype: torch.dtype, channels_last: bool = True) -> Form:
    """The network in a precision and memory format, from a float32 NCHW image to float32 logits."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(dtype=dtype, memory_format=layout)
    return lambda image: network(image.to(dtype).contiguous(memory_format=layout)).float()


def student_forms(student: DSUNet, device: str) -> dict[str, Form]:
    """The student as it can be run."""
    half = torch.bfloat16
    forms = {
        "eager float32": cast(_copy(student), torch.float32, channels_last=False),
        "eager float32, channels_last": cast(_copy(student), torch.float32),
        "fused float32": cast(fuse(student), torch.float32),
        "fused float32, compiled": cast(fuse(student, compile=True), torch.float32),
        "eager bf16, channels_last": cast(_copy(student), half),
        "fused bf16": cast(fuse(student), half),
        "fused bf16, compiled": cast(fuse(student, compile=True), half),
    }
    if device == "cuda":
        forms["kernel bf16"] = cast(fuse(student, kernel=True), half)
    return forms


class PlainStudent:
    """The plain eager student, for a process that hands freed memory back."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.form = cast(make_student(1.0), torch.float32, channels_last=False)
        self.image = torch.randn(shape)

    @torch.inference_mode()
    def seconds(self) -> float:
        """Time of one pass."""
        return seconds(self.form, self.image)


def _copy(student: DSUNet) -> DSUNet:
    copied = DSUNet(CLASSES, student.head.in_channels / 64)
    copied.load_state_dict(student.state_dict())
    return copied.to(student.head.weight.device).eval()


def memory_floor(student: DSUNet, image: Tensor) -> int:
    """Bytes that must move in bf16 where each block or convolution reads and writes each map once."""
    moved = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += 2 * (sum(value.numel() for value in inputs) + output.numel())

    handles = [
        module.register_forward_hook(count)
        for module in student.modules()
        if isinstance(module, Block | nn.ConvTranspose2d) or module is student.head
    ]
    with torch.inference_mode():
        student(image)
    for handle in handles:
        handle.remove()
    return moved


def copy_bandwidth(device: str) -> float:
    """Bytes per second read and written by a large copy."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [seconds(lambda _: target.copy_(source), source) for _ in range(12)]
    return 2 * source.numel() / statistics.median(times[2:])


def seconds(form: Form, image: Tensor) -> float:
    """Time of one pass."""
    if image.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    form(image)
    if image.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(timers: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of what each timer times; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in timers}
    for turn in range(repeats + 2):
        for name, timer in timers.items():
            taken = timer()
            if turn >= 2:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--others", action="store_true", help="narrower students and torchvision's networks too"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = torch.randn(options.batch, 3, *options.size, device=options.device)
    student = make_student(1.0).to(options.device)
    forms = student_forms(student, options.device)
    with torch.inference_mode():
        expected = forms["eager float32"](image).argmax(dim=1)
        same = {
            name: (form(image).argmax(dim=1) == expected).float().mean().item()
            for name, form in forms.items()
        }
    if options.others:
        for width in (0.5, 0.25):
            narrow = make_student(width).to(options.device)
            forms[f"width {width}, fused float32"] = cast(fuse(narrow), torch.float32)
            forms[f"width {width}, fused bf16, compiled"] = cast(fuse(narrow, compile=True), torch.bfloat16)
        for spec in ("fcn_resnet50", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"):
            for dtype in (torch.float32, torch.bfloat16):
                network = build_model(spec, CLASSES).to(options.device).eval()
                forms[f"{spec}, {str(dtype).removeprefix('torch.')}"] = cast(network, dtype)
    timers: dict[str, Callable[[], float]] = {
        name: partial(seconds, form, image) for name, form in forms.items()
    }
    if options.device == "cpu":
        keep_freed_memory()
        plain_process = OwnProcess(PlainStudent, tuple(image.shape))
        timers = {PLAIN: partial(plain_process.call, "seconds"), **timers}
    with torch.inference_mode():
        found = measure(timers, options.repeats)
    floor = memory_floor(student, image) / copy_bandwidth(options.device)
    plain = found.get(PLAIN, found["eager float32"])
    table = Table(title=f"{options.device}, batch {options.batch}, {options.size[0]} x {options.size[1]}")
    for column in ("", "ms", "against eager", "same class", "memory floor"):
        table.add_column(column, justify="left" if not column else "right")
    for name, median in found.items():
        agreement = f"{same[name]:.4%}" if name in same else ""
        share = f"{floor / median:.0%}" if "bf16" in name and name in same else ""
        table.add_row(name, f"{1000 * median:.1f}", f"{plain / median:.2f}", agreement, share)
    console = Console()
    console.print(table)
    moved = memory_floor(student, image) / options.batch / 1e6
    console.print(f"memory floor: {moved:.0f} MB per image in bf16, {1000 * floor:.2f} ms for the batch")


if __name__ == "__main__":
    main()
