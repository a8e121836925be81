"""What people see on standard error: messages, progress bars, tables; standard output is for machines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

console = Console(stderr=True)
"""Where everything meant for people goes; standard output is for machines."""


@contextmanager
def progress(visible: bool = True) -> Iterator[Progress]:
    """A live bar with count, time and the newest `numbers` of a task; silent where there is no terminal."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=console, disable=not visible or not sys.stderr.isatty()) as bar:
        yield bar


def log(text: str, accelerator: "Accelerator | None" = None) -> None:
    """Print a line for people, from the main process only where an `accelerator` is given."""
    if accelerator is None or accelerator.is_main_process:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
