"""What people see on standard error: messages, progress bars, tables; standard output is for machines."""

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, Task, TaskID
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from accelerate import Accelerator

console = Console(stderr=True)
"""Where everything meant for people goes; standard output is for machines."""

_times: ContextVar[bool] = ContextVar("times", default=False)
"""Whether each line begins with the time."""

WARNING = "Warning: "
"""How a warning begins."""

LINE_SECONDS = 30.0
"""Seconds between two lines of progress of one task, where there is no terminal."""


SPEED = "images_per_second"
"""The number of a task that is shown last, with its unit."""

KNOWN_AFTER = 20
"""Steps or images after which it is known how long a task takes, ..."""

KNOWN_SECONDS = 10.0
"""... or seconds, where these take longer."""

SPEED_SECONDS = 300.0
"""The newest of them count for speed and time left: a step may take a minute."""

WORTH_A_LINE = 60.0
"""Seconds that a task must take for a line on how long it takes."""

BAR, SHORT_BAR = 24, 10
"""Columns of a bar."""


class _Layout(NamedTuple):
    """What of a task is shown beside its name, its count and the time left."""

    bar: int
    """Columns of the bar."""
    elapsed: bool
    """The time since its beginning."""
    numbers: int
    """How many of its numbers, the first ones."""
    speed: bool = True


def _layouts(numbers: int) -> Iterator[_Layout]:
    """From everything to the least, where a task has as many numbers: less bar comes before fewer numbers."""
    yield _Layout(BAR, elapsed=True, numbers=numbers)
    yield _Layout(BAR, elapsed=False, numbers=numbers)
    for count in range(numbers, 0, -1):
        yield _Layout(SHORT_BAR, elapsed=False, numbers=count)
    yield _Layout(0, elapsed=False, numbers=1)
    yield _Layout(0, elapsed=False, numbers=0)
    yield _Layout(0, elapsed=False, numbers=0, speed=False)


class ProgressBar(Progress):
    """A live bar, each task on one line that fits the terminal.

    A task may have three fields of its own: `numbers`, its newest values by name, the most important first
    (`SPEED` is shown last); `unit`, what is counted, as "image": then the bar shows how many are done per
    second, and a line says once about how long all take; and `note`, the end of that line.

    Args:
        visible: show anything at all.
        live: show the bar, not lines for a log.
        moving: draw it ten times a second, not only where an update says `refresh`.
    """

    def __init__(self, *, visible: bool = True, live: bool = True, moving: bool = True) -> None:
        self.visible = visible
        self._announced: set[str] = set()
        self._begun: dict[TaskID, float] = {}
        super().__init__(
            console=console,
            disable=not (visible and live),
            get_time=lambda: time.monotonic(),
            speed_estimate_period=SPEED_SECONDS,
            auto_refresh=moving,
            redirect_stdout=sys.stdout.isatty(),  # what is printed into a file is not for the terminal
        )

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """Begin a task."""
        task_id = super().add_task(description, *args, **fields)
        self._begun[task_id] = self._task(task_id).completed
        return task_id

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count what is done."""
        super().advance(task_id, advance)
        self._announce(self._task(task_id))

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Set what is done, and other fields."""
        super().update(task_id, **changes)
        self._announce(self._task(task_id))

    def write_line(self, task_id: TaskID) -> None:
        """Write a line on a task now, where there is no live bar."""

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """The tasks, a line each, with as much as the width of the terminal has room for."""
        shown = [task for task in tasks if task.visible]
        numbers = max((len(_numbers(task)) for task in shown), default=0)
        unlimited = console.options.update(max_width=10_000)
        for layout in _layouts(numbers):
            table = Table.grid(padding=(0, 1))
            for task in shown:
                table.add_row(*_cells(task, layout))
            for column in table.columns:
                column.no_wrap = True
            if console.measure(table, options=unlimited).maximum <= console.width:
                break
        return table

    def _task(self, task_id: TaskID) -> Task:
        return next(task for task in self.tasks if task.id == task_id)

    def _announce(self, task: Task) -> None:
        """Log once about how long all tasks of this name take, when that is known, if it is worth a line."""
        unit, name = task.fields.get("unit"), task.description
        if not self.visible or unit is None or task.total is None or name in self._announced:
            return
        done = task.completed - self._begun[task.id]
        if done < KNOWN_AFTER and (done < 2 or (task.elapsed or 0) < KNOWN_SECONDS):
            return
        if task.speed:
            self._announced.add(name)
            amount = task.total - self._begun[task.id]
            if amount / task.speed > WORTH_A_LINE:
                needed = duration(amount / task.speed)
                note = task.fields.get("note", "")
                log(f"{name}: about {needed} for {counted(round(amount), unit)}{note}")


def _cells(task: Task, layout: _Layout) -> Iterator[RenderableType]:
    """What a task has in the columns of a layout."""
    yield Text(task.description, style="bold")
    if layout.bar:
        yield BarColumn(bar_width=layout.bar).render(task)
    yield Text(count_text(task, "/"), style="progress.download")
    if layout.elapsed:
        yield Text(_clock(task.elapsed or 0), style="progress.elapsed")
    yield Text(_time_left(task) or ("" if task.total is None else "-:--:-- left"), style="progress.remaining")
    yield Text(number_text(task, layout.numbers, speed=layout.speed))


def count_text(task: Task, between: str) -> str:
    """What of a task is done, and `between` it and the total that."""
    total = "" if task.total is None else f"{between}{task.total:,.0f}"
    return f"{task.completed:,.0f}{total}"


def number_text(task: Task, most: int | None = None, *, speed: bool = True) -> str:
    """The numbers of a task, the first `most` of them (None: all), and its `speed`."""
    parts = [f"{name} {value:.3g}" for name, value in list(_numbers(task).items())[:most]]
    rate, unit = (task.fields.get("numbers") or {}).get(SPEED), "image"
    if rate is None:
        rate, unit = task.speed, task.fields.get("unit", "")
    if speed and unit and rate:
        parts.append(f"{rate:.1f} {unit}s/s")
    return " ".join(parts)


def _numbers(task: Task) -> dict[str, float]:
    """The numbers of a task but its speed."""
    return {name: value for name, value in (task.fields.get("numbers") or {}).items() if name != SPEED}


def _time_left(task: Task) -> str:
    """How long a task takes yet; empty where nobody knows."""
    left = task.time_remaining
    return "" if left is None or task.total is None else f"{_clock(left)} left"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds: 0:01:30."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def duration(seconds: float) -> str:
    """A time in words for people: 1 min, 75 min, 2 h 10 min, 30 h."""
    minutes = max(1, round(seconds / 60))
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 600 else f"{round(minutes / 60)} h"


class ProgressLines(ProgressBar):
    """Progress for a log: a line for each task that runs longer than `LINE_SECONDS`, and so on."""

    def __init__(self) -> None:
        super().__init__(live=False)
        self._last: dict[TaskID, float] = {}
        self._written: dict[TaskID, float] = {}

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """Begin a task; its first line comes after `LINE_SECONDS`."""
        task = super().add_task(description, *args, **fields)
        self._last[task] = time.monotonic()
        return task

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count what is done."""
        super().advance(task_id, advance)
        self._write_if_due(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Set what is done, and other fields."""
        super().update(task_id, **changes)
        self._write_if_due(task_id)

    def write_line(self, task_id: TaskID) -> None:
        """Write a line on a task now, unless the last one tells the same."""
        if self._written.get(task_id) != self._task(task_id).completed:
            self._write(self._task(task_id))

    def _write_if_due(self, task_id: TaskID) -> None:
        """Write a line, if the last one is long enough ago."""
        if time.monotonic() - self._last[task_id] >= LINE_SECONDS:
            self._write(self._task(task_id))

    def _write(self, task: Task) -> None:
        self._last[task.id], self._written[task.id] = time.monotonic(), task.completed
        parts = [f"{task.description}: {count_text(task, ' of ')}", _time_left(task), number_text(task)]
        log(", ".join(filter(None, parts)))


def _has_widgets() -> bool:
    """Whether this is a notebook that can show a live bar: rich draws it in a widget of ipywidgets."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


@contextmanager
def progress(visible: bool = True, *, moving: bool = True) -> Iterator[ProgressBar]:
    """A live bar with count, time left and the newest numbers; lines without terminal or notebook.

    Args:
        visible: show anything at all.
        moving: draw the bar ten times a second, not only where an update says `refresh`.
    """
    if visible and not sys.stderr.isatty() and not _has_widgets():
        yield ProgressLines()
        return
    with ProgressBar(visible=visible, moving=moving) as bar:
        yield bar


@contextmanager
def verbosity(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Within it, people see less or more than usual; what went wrong they see in any case.

    Args:
        quiet: warnings and errors alone.
        verbose: also the time of each line, what libraries log at level INFO, and where an error was raised.

    Raises:
        ValueError: both are asked for.
    """
    if quiet and verbose:
        raise ValueError("--quiet and --verbose are opposites: choose one")
    root, handler = logging.getLogger(), RichHandler(console=console, show_path=False)
    before = console.quiet, root.level
    console.quiet = quiet
    if verbose:
        root.addHandler(handler)
        root.setLevel(logging.INFO)
    times = _times.set(verbose)
    try:
        yield
    except Exception:
        if verbose:
            console.print_exception(width=None)
        raise
    finally:
        _times.reset(times)
        console.quiet = before[0]
        root.removeHandler(handler)
        root.setLevel(before[1])


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 1,200 images."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def warn(text: str, accelerator: "Accelerator | None" = None) -> None:
    """Print a warning, also where the user wants to see nothing else."""
    quiet, console.quiet = console.quiet, False
    try:
        log(f"{WARNING}{text}", accelerator)
    finally:
        console.quiet = quiet


def log(text: str, accelerator: "Accelerator | None" = None) -> None:
    """Print a line for people, from the main process only where an `accelerator` is given."""
    if accelerator is None or accelerator.is_main_process:
        if _times.get():
            text = f"{datetime.now():%H:%M:%S} {text}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
