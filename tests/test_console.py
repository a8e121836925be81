"""Progress where nobody sees a bar."""

import logging
import sys
from typing import Any

import pytest
from rich.console import Console

from segdistill import console


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    clock = [0.0]
    monkeypatch.setattr("segdistill.console.time.monotonic", lambda: clock[0])
    with console.progress() as bar:
        task = bar.add_task("train", total=1000, numbers="")
        for step in range(1, 101):
            clock[0] += 1
            bar.update(task, completed=10 * step, numbers=f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("train: 300 of 1,000")
    assert lines[2].endswith("loss 90")


def test_a_task_without_an_end_counts(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0)
    with console.progress() as bar:
        bar.advance(bar.add_task("calibrate", total=None, numbers=""))
    assert capsys.readouterr().err == "calibrate: 1\n"


def test_short_and_hidden_work_is_silent(capsys: Any) -> None:
    for visible in (True, False):
        with console.progress(visible) as bar:
            task = bar.add_task("predict", total=3, numbers="")
            for _ in range(3):
                bar.advance(task)
            bar.remove_task(task)
    assert capsys.readouterr().err == ""


def test_quiet_hides_lines_but_no_warning_and_is_undone(capsys: Any) -> None:
    with console.verbosity(quiet=True):
        console.log("a line")
        console.warn("too small")
    console.log("after")
    assert capsys.readouterr().err == "Warning: too small\nafter\n"


def test_verbose_shows_what_libraries_log_and_is_undone(capsys: Any) -> None:
    with console.verbosity(verbose=True):
        logging.getLogger("some.library").info("downloading")
    assert "downloading" in capsys.readouterr().err
    logging.getLogger("some.library").info("again")
    assert capsys.readouterr().err == ""


def test_a_notebook_gets_a_bar_where_ipywidgets_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "console", Console(force_jupyter=True))
    with console.progress(visible=False) as bar:
        assert not isinstance(bar, console.ProgressLines)
    assert console._has_widgets()
    monkeypatch.setattr(console, "find_spec", lambda name: None)
    with console.progress() as bar:
        assert isinstance(bar, console.ProgressLines)


def test_what_is_printed_into_a_file_stays_out_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(console, "console", Console(stderr=True, force_terminal=True))
    with console.progress(moving=False) as bar:
        task = bar.add_task("predict", total=2, numbers="")
        print("for a file")
        bar.update(task, completed=1, refresh=True)
    out, err = capsys.readouterr()
    assert out == "for a file\n"
    assert "predict" in err
    assert "1/2" in err


@pytest.mark.parametrize(("number", "text"), [(0, "0 images"), (1, "1 image"), (1200, "1,200 images")])
def test_a_number_has_its_noun(number: int, text: str) -> None:
    assert console.counted(number, "image") == text
