"""Checks and averages the loss terms: a run that is no longer finite stops, and says where."""

import json
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segdistill.engine.run_folder import RunFolder
from segdistill.files import write_atomic

GRADIENT = "gradient_norm"
PATIENCE = 8
"""Micro-batches that an accelerator may run ahead of the check."""


class NonFiniteLossError(ValueError):
    """A loss term, or the gradient, was NaN or infinite.

    Attributes:
        step: of the batch, from 1.
        ids: of its samples.
        terms: values by name.
        term: the first one that is not finite.
    """

    def __init__(self, step: int, ids: list[str], terms: dict[str, float], hint: str) -> None:
        self.step, self.ids, self.terms = step, ids, terms
        wrong = [name for name, value in terms.items() if not math.isfinite(value)]
        self.term = next((name for name in wrong if name != "loss"), "loss")
        self.on(ids, hint)

    def on(self, ids: list[str], hint: str) -> "NonFiniteLossError":
        """The same error, whose message names the images `ids`."""
        what = "gradient's norm" if self.term == GRADIENT else f"{self.term} loss"
        self.args = (
            f"step {self.step}: the {what} is {self.terms[self.term]} on {', '.join(ids[:8])}; {hint}"
            "A smaller optim.lr, optim.clip or fp32 may help",
        )
        return self

    def record(self, rank: int = 0) -> dict[str, Any]:
        """Its part of nonfinite.json."""
        return {"step": self.step, "rank": rank, "terms": self.terms, "ids": self.ids}


@dataclass(frozen=True)
class _Pending:
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
        folder: gets this process's record of a batch that is not finite.
        rank: of this process.
    """

    def __init__(self, folder: RunFolder, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self.pending: deque[_Pending] = deque()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def record(self, step: int, ids: list[str], terms: dict[str, Tensor], *, log: bool = True) -> None:
        """Check the terms of one micro-batch of optimizer step `step` (from 1), and `log` them.

        Raises:
            NonFiniteLossError: a term of this or an earlier micro-batch is not finite.
        """
        values = torch.stack([term.detach().float() for term in terms.values()])
        arrived = None
        if values.is_cuda:
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self.pending.append(_Pending(step, ids, list(terms), values, arrived))
        for name, term in terms.items() if log else ():
            self.log(name, term)
        while self.pending and (self.pending[0].is_here or len(self.pending) > PATIENCE):
            self._check(self.pending.popleft())

    def log(self, name: str, value: Tensor) -> None:
        """Take a number into the means without checking it."""
        self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.counts[name] = self.counts.get(name, 0) + 1

    def flush(self) -> None:
        """Wait for everything that was recorded, and check it."""
        while self.pending:
            self._check(self.pending.popleft())

    def means(self) -> dict[str, float]:
        """The mean of each term since the last call."""
        self.flush()
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def _check(self, pending: _Pending) -> None:
        if pending.arrived is not None:
            pending.arrived.synchronize()
        values = dict(zip(pending.names, pending.values.tolist(), strict=True))
        if all(map(math.isfinite, values.values())):
            return
        path = self.folder.nonfinite_file(self.rank)
        error = NonFiniteLossError(pending.step, pending.ids, values, f"{path} names the whole batch. ")
        terms = {name: str(value) for name, value in values.items()}  # JSON has no NaN
        write_atomic(path, json.dumps(error.record(self.rank) | {"terms": terms}, indent=2))
        raise error
