"""Watches the loss terms: stops a run that is no longer finite, and averages what is logged."""

import json
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segdistill.files import write_atomic

GRADIENT = "gradient_norm"
PATIENCE = 8
"""Micro-batches that an accelerator may run ahead of the check."""


class NonFiniteLossError(ValueError):
    """A loss term, or the gradient, was NaN or infinite.

    Attributes:
        step: of the batch, from 1.
        ids: its samples.
        terms: its numbers by name.
        culprit: the term.
    """

    def __init__(self, step: int, ids: list[str], terms: dict[str, float], bad: list[str], hint: str) -> None:
        self.step, self.ids, self.terms = step, ids, terms
        wrong = [name for name, value in terms.items() if not math.isfinite(value)]
        self.culprit = next((name for name in wrong if name != "loss"), "loss")
        self.on(bad, hint)

    def on(self, bad: list[str], hint: str) -> "NonFiniteLossError":
        """The same error, said of the images `bad`."""
        what = "gradient's norm" if self.culprit == GRADIENT else f"{self.culprit} loss"
        self.args = (
            f"step {self.step}: the {what} is {self.terms[self.culprit]} on {', '.join(bad[:8])}; {hint}"
            "A smaller optim.lr, optim.clip or fp32 may help",
        )
        return self

    def record(self, rank: int = 0) -> dict[str, Any]:
        """What nonfinite.json says of it."""
        return {"step": self.step, "rank": rank, "terms": self.terms, "ids": self.ids}


@dataclass(frozen=True)
class _Seen:
    """The terms of one micro-batch, on their way to the host."""

    step: int
    ids: list[str]
    names: list[str]
    values: Tensor
    arrived: torch.cuda.Event | None

    @property
    def is_here(self) -> bool:
        return self.arrived is None or bool(self.arrived.query())  # type: ignore[no-untyped-call]


class LossMonitor:
    """Reads loss terms without making the device wait for the host.

    On a CPU a term that is not finite is found before anything is updated. On an accelerator it is found some
    micro-batches later, when its copy has arrived, and always before a state is saved or a number logged.

    Args:
        run: the run folder, which gets nonfinite.json.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.waiting: deque[_Seen] = deque()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def watch(self, step: int, ids: list[str], terms: dict[str, Tensor], *, log: bool = True) -> None:
        """Take in the terms of one micro-batch of optimiser step `step`; `log` them, or only check them.

        Raises:
            NonFiniteLossError: a term of this or an earlier micro-batch is not finite.
        """
        values = torch.stack([term.detach().float() for term in terms.values()])
        arrived = None
        if values.is_cuda:
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self.waiting.append(_Seen(step, ids, list(terms), values, arrived))
        for name, term in terms.items() if log else ():
            self.add(name, term)
        while self.waiting and (self.waiting[0].is_here or len(self.waiting) > PATIENCE):
            self._check(self.waiting.popleft())

    def add(self, name: str, value: Tensor) -> None:
        """Take in a number that is only logged."""
        self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.counts[name] = self.counts.get(name, 0) + 1

    def settle(self) -> None:
        """Wait for everything that was taken in, and check it."""
        while self.waiting:
            self._check(self.waiting.popleft())

    def means(self) -> dict[str, float]:
        """The mean of each term since the last call."""
        self.settle()
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def _check(self, seen: _Seen) -> None:
        if seen.arrived is not None:
            seen.arrived.synchronize()
        values = dict(zip(seen.names, seen.values.tolist(), strict=True))
        if all(map(math.isfinite, values.values())):
            return
        path = self.run / "nonfinite.json"
        hint = f"{path} names the whole batch. "
        error = NonFiniteLossError(seen.step, seen.ids, values, seen.ids, hint)
        terms = {name: str(value) for name, value in values.items()}  # JSON has no NaN
        write_atomic(path, json.dumps(error.record() | {"terms": terms}, indent=2))
        raise error
