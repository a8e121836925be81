"""Progress as a bar that fits the terminal, and as lines where nobody sees a bar; messages."""

import io
import logging
import sys
from typing import Any

import pytest
from rich.console import Console

from segdistill import console

NUMBERS = {"loss": 1.373, "hard": 1.214, "soft": 1.744, "lr": 1e-4, "images_per_second": 34.16}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which stands still."""
    now = [0.0]
    monkeypatch.setattr("segdistill.console.time.monotonic", lambda: now[0])
    return now


def rendered(monkeypatch: pytest.MonkeyPatch, clock: list[float], width: int) -> list[str]:
    """A training in the middle of an evaluation, as a terminal of so many columns shows it."""
    out = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=out, width=width))
    bar = console.ProgressBar(visible=False)
    task = bar.add_task("train", total=20_000, unit="step")
    for step in range(1, 12_001, 1000):
        clock[0] += 100
        bar.update(task, completed=step, numbers=NUMBERS)
    bar.update(bar.add_task("evaluate", total=300, unit="image"), completed=150)
    bar.console.print(bar.get_renderable())
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_bar_shows_what_matters_whole(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], width: int
) -> None:
    lines = rendered(monkeypatch, clock, width)
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("train ")
    for text in ("11,001/20,000", "0:15:00 left", "loss 1.37", "34.2 images/s"):
        assert text in lines[0], text
    assert "150/300" in lines[1]
    assert "…" not in "".join(lines)


def test_a_bar_leaves_out_what_matters_least_first(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    narrow, wide, widest = (rendered(monkeypatch, clock, width)[0] for width in (80, 120, 200))
    bars = [line.count("━") + line.count("╸") + line.count("╺") for line in (narrow, wide, widest)]
    assert bars == [6, 13, 13]  # 55 % of 10, 24 and 24 columns
    assert [("lr 0.0001" in line) for line in (narrow, wide, widest)] == [False, True, True]
    assert "0:20:00" in widest  # since the beginning
    tiny = rendered(monkeypatch, clock, 45)[0]
    assert "━" not in tiny
    assert "11,001/20,000 0:15:00 left" in tiny


def test_a_log_gets_a_line_now_and_then(clock: list[float], capsys: Any) -> None:
    with console.progress() as bar:
        task = bar.add_task("train", total=1000)
        for step in range(1, 101):
            clock[0] += 1
            bar.update(task, completed=10 * step, numbers={"loss": step})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "train: 300 of 1,000, 0:01:10 left, loss 30"
    assert lines[2].endswith("loss 90")


def test_a_log_gets_a_line_when_it_is_asked_for(clock: list[float], capsys: Any) -> None:
    with console.progress() as bar:
        task = bar.add_task("train", total=40)
        for step in range(1, 13):
            clock[0] += 10
            bar.update(task, completed=step, numbers=NUMBERS)
            if step % 5 == 0:
                bar.write_line(task)
    lines = capsys.readouterr().err.splitlines()
    # The third step is 30 s after the beginning, and so is the eighth after the fifth.
    assert [line.split(",")[0] for line in lines] == [f"train: {step} of 40" for step in (3, 5, 8, 10)]
    assert lines[1].endswith("0:05:50 left, loss 1.37 hard 1.21 soft 1.74 lr 0.0001 34.2 images/s")


def test_a_line_that_is_there_is_not_written_again(clock: list[float], capsys: Any) -> None:
    with console.progress() as bar:
        task = bar.add_task("train", total=3)
        for step in range(1, 4):  # each takes longer than `LINE_SECONDS`
            clock[0] += 40
            bar.update(task, completed=step)
            bar.write_line(task)
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("live", [True, False])
def test_what_takes_long_says_so_once(clock: list[float], capsys: Any, live: bool) -> None:
    bar = console.ProgressBar() if live else console.ProgressLines()
    for _ in range(2):  # as an evaluation that comes again
        task = bar.add_task("train", total=5100, completed=100, unit="step", note=", more or less")
        for _ in range(25):
            clock[0] += 0.144
            bar.advance(task)
    assert capsys.readouterr().err == "train: about 12 min for 5,000 steps, more or less\n"


def test_what_is_slow_says_so_after_seconds_and_shows_its_speed(clock: list[float], capsys: Any) -> None:
    bar = console.ProgressLines()
    task = bar.add_task("cache", total=1000, unit="image")
    for _ in range(8):
        clock[0] += 4
        bar.advance(task)
    assert capsys.readouterr().err.splitlines() == [
        "cache: about 67 min for 1,000 images",
        "cache: 8 of 1,000, 1:06:08 left, 0.2 images/s",
    ]


@pytest.mark.parametrize("fields", [{}, {"unit": "step"}])
def test_what_is_short_or_has_no_unit_announces_nothing(
    clock: list[float], capsys: Any, fields: dict[str, str]
) -> None:
    bar = console.ProgressLines()
    task = bar.add_task("train", total=50 if fields else 5000, **fields)
    for _ in range(25):
        clock[0] += 1
        bar.advance(task)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(61, "1 min"), (5000, "83 min"), (7800, "2 h 10 min"), (108_000, "30 h")]
)
def test_a_time_in_words(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_a_task_without_an_end_counts(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0)
    with console.progress() as bar:
        bar.advance(bar.add_task("calibrate", total=None))
    assert capsys.readouterr().err == "calibrate: 1\n"


def test_short_and_hidden_work_is_silent(capsys: Any) -> None:
    for visible in (True, False):
        with console.progress(visible) as bar:
            task = bar.add_task("predict", total=3)
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
