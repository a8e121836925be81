"""The records of a run, step by step: history.jsonl and the trackers of accelerate."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from segdistill.console import SPEED
from segdistill.files import LINES_BYTES, read_text, write_atomic

PICTURE_OPTIONS: dict[str, dict[str, str]] = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}
"""Trackers that take pictures, by name, and what their `log_images` gets beside them."""


class History:
    """The records of a run, one JSON line per logged step and per evaluation.

    Args:
        path: history.jsonl; what it holds of steps after `start` is dropped, for they will be made again.
        start: steps already done.
        scored: step of the newest evaluation; what follows of them is dropped likewise.
        accelerator: its main process writes, and its trackers get the same numbers.
    """

    def __init__(self, path: Path, start: int, accelerator: Accelerator, scored: int | None = None) -> None:
        self.path, self.accelerator = path, accelerator
        self.writes = accelerator.is_main_process
        if self.writes and path.is_file():
            lines = read_text(path, LINES_BYTES).splitlines(keepends=True)
            until = start if scored is None else scored
            write_atomic(path, "".join(line for line in lines if _kept(line, start, until)))
        self.clock, self.clocked = time.perf_counter(), start

    def log(self, step: int, values: dict[str, float], images: int) -> dict[str, float]:
        """Record the numbers of `step`, each of `images` images; returns them with the speed."""
        seconds = time.perf_counter() - self.clock
        speed = images * (step - self.clocked) / seconds if seconds > 0 else 0.0
        self.restart_clock(step)
        record = {**values, SPEED: round(speed, 2)}
        self._write({"step": step, **record})
        self.accelerator.log({f"train/{name}": value for name, value in record.items()}, step=step)
        return record

    def evaluation(self, step: int, summary: dict[str, Any]) -> None:
        """Record an evaluation after `step`: its scalars, and the IoU of each class."""
        scalars = {name: value for name, value in summary.items() if isinstance(value, float)}
        self._write({"step": step, "evaluation": {**scalars, "iou": summary["iou"]}})
        self.accelerator.log({f"val/{name}": value for name, value in scalars.items()}, step=step)
        self.restart_clock(step)

    @property
    def takes_pictures(self) -> bool:
        """Whether this process has a tracker that shows pictures."""
        return self.writes and any(tracker.name in PICTURE_OPTIONS for tracker in self.accelerator.trackers)

    def pictures(self, step: int, drawn: Mapping[str, np.ndarray]) -> None:
        """Give the trackers pictures of an evaluation after `step`, H x W x 3 uint8 by name."""
        for tracker in self.accelerator.trackers if self.writes else ():
            if tracker.name in PICTURE_OPTIONS:
                images = {f"val/{name}": picture[None] for name, picture in drawn.items()}
                tracker.log_images(images, step=step, **PICTURE_OPTIONS[tracker.name])

    def restart_clock(self, step: int) -> None:
        """Begin a new interval for images per second, after something that was not training."""
        self.clock, self.clocked = time.perf_counter(), step

    def _write(self, record: dict[str, Any]) -> None:
        if self.writes:
            try:
                with self.path.open("a") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:  # which names no file where the disk is full
                raise OSError(error.errno, error.strerror or str(error), str(self.path)) from None


def _kept(line: str, start: int, scored: int) -> bool:
    """Whether a line is of a step up to `start`, or an evaluation up to `scored`, and not cut short."""
    try:
        record = json.loads(line)
        return line.endswith("\n") and record["step"] <= (scored if "evaluation" in record else start)
    except (ValueError, TypeError, LookupError):  # a kill or a full disk came in between
        return False
