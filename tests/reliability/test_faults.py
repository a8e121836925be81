"""Faults of the machine around a training: a line that says so, exit code 1, and the last good checkpoint."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill import api, cli
from segdistill.config.train import DataConfig, OptimConfig, TeacherConfig, TrainConfig
from segdistill.config.yaml import to_yaml
from segdistill.data.worker import plain_failures
from segdistill.engine.checkpoint import Checkpoints
from segdistill.engine.monitor import NonFiniteLossError
from segdistill.engine.replay import load_dump
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import Stopped, StopSignal
from segdistill.engine.trainer import Trainer, must_stop

pytestmark = pytest.mark.integration


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; where it may not be mounted, the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True
    )
    if mount.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def command(config: TrainConfig, tmp_path: Path, *more: str) -> list[str]:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    return ["train", "--config", str(file), *more]


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error; progress may be before it."""
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "Traceback" in line] == []
    assert [line for line in lines if line.startswith("segdistill: error: ")] == lines[-1:]
    return lines[-1]


def loaders() -> list[int]:
    """The loader processes of this one, the newest last."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if "spawn" not in Path(f"/proc/{pid}/cmdline").read_text()]


def before_step(patch: pytest.MonkeyPatch, number: int, strike: Callable[[], object]) -> None:
    """Let something happen before a training's step `number` (from 0)."""
    step = Trainer.optimizer_step

    def struck(trainer: Trainer, now: int, batches: Any) -> Any:
        if now == number:
            strike()
        return step(trainer, now, batches)

    patch.setattr(Trainer, "optimizer_step", struck)


def test_a_full_disk_keeps_the_last_checkpoint(
    small_disk: Path, configure: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(small_disk / "run", checkpoint_every=1, evaluate_every=6, trackers=[])

    def fill() -> None:
        free = os.statvfs(small_disk)
        (small_disk / "others").write_bytes(bytes(free.f_bavail * free.f_frsize - 60_000))

    with monkeypatch.context() as patch:
        before_step(patch, 3, fill)
        assert cli.main(command(config, tmp_path)) == 1
    assert "No space left on device" in refusal(capsys)
    found = Checkpoints(small_disk / "run" / "checkpoints").load()
    assert found is not None
    assert found[0] == 3
    assert list((small_disk / "run").rglob("*.tmp")) == []
    (small_disk / "others").unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert cli.main(command(config, tmp_path, "--resume")) == 0
    lines = (small_disk / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [*range(1, 7), 6]


def test_a_read_only_folder_is_refused(small_disk: Path, configure: Any, tmp_path: Path, capsys: Any) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cli.main(command(configure(small_disk / "run"), tmp_path)) == 1
    assert "Read-only file system" in refusal(capsys)


def test_a_killed_loader_is_named(
    configure: Any, shapes: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(root=str(shapes), workers=1)
    config = configure(tmp_path / "run", data=data, steps=400, evaluate_every=400, checkpoint_every=1)
    before_step(monkeypatch, 2, lambda: os.kill(loaders()[-1], signal.SIGKILL))
    assert cli.main(command(config, tmp_path)) == 1
    assert "a loader process was ended from outside" in refusal(capsys)
    assert Checkpoints(tmp_path / "run" / "checkpoints").load() is not None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_named(
    configure: Any, shapes: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    root = tmp_path / "data"
    subprocess.run(["cp", "-r", str(shapes), str(root)], check=True)
    images = root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    config = configure(tmp_path / "run", data=DataConfig(root=str(root), workers=workers), steps=50,
                       checkpoint_every=1, evaluate_every=50)  # fmt: skip
    before_step(monkeypatch, 2, lambda: shutil.rmtree(images))
    assert cli.main(command(config, tmp_path)) == 1
    assert ".jpg does not exist" in refusal(capsys)
    assert Checkpoints(tmp_path / "run" / "checkpoints").load() is not None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_memory_that_runs_out_is_named(
    configure: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Trainer, "optimizer_step", fail)
    assert cli.main(command(configure(tmp_path / "run"), tmp_path)) == 1
    assert "not enough memory" in refusal(capsys)


def test_a_loader_process_without_memory_is_named(
    configure: Any, shapes: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(root=str(shapes), workers=1)
    config = configure(tmp_path / "run", data=data, steps=20, evaluate_every=20, checkpoint_every=1)

    def limit() -> None:
        for pid in loaders():
            resource.prlimit(pid, resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))

    with monkeypatch.context() as patch:
        before_step(patch, 3, limit)
        assert cli.main(command(config, tmp_path)) == 1
    assert "not enough memory" in refusal(capsys)
    found = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert found is not None
    assert 2 <= found[0] < 20
    assert cli.main(command(config, tmp_path, "--resume")) == 0
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [*range(1, 21), 20]


def test_a_clock_that_jumps_back_changes_nothing(
    configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    run = api.train(configure(tmp_path / "run"), report=False)
    records = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == sorted(record["step"] for record in records)
    assert all(record["images_per_second"] > 0 for record in records if "evaluation" not in record)


# One run folder, one training


def test_a_second_training_in_one_folder_is_refused(configure: Any, tmp_path: Path, capsys: Any) -> None:
    config = configure(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with RunFolder(tmp_path / "run").locked():
        assert cli.main(command(config, tmp_path)) == 1
        assert f"another process trains in {tmp_path / 'run'}" in refusal(capsys)
    assert cli.main(command(config, tmp_path)) == 0
    for more in ("--resume", "--overwrite"):
        with RunFolder(tmp_path / "run").locked():
            assert cli.main(command(config, tmp_path, more)) == 1
        assert "another process trains in" in refusal(capsys)


def hold(folder: Path, held: Any) -> None:
    """Lock a run folder for ever, with a child that outlives this process."""
    os.setsid()
    with RunFolder(folder).locked():
        if os.fork():
            held.set()
        time.sleep(600)


def test_a_lock_dies_with_its_owner_even_where_a_forked_child_lives_on(tmp_path: Path) -> None:
    fork = get_context("fork")
    held = fork.Event()
    owner = fork.Process(target=hold, args=(tmp_path, held))
    owner.start()
    try:
        assert held.wait(60)
        with pytest.raises(ValueError, match="another process trains"), RunFolder(tmp_path).locked():
            pass
        owner.kill()
        owner.join()
        with RunFolder(tmp_path).locked():
            pass
    finally:
        os.killpg(owner.pid, signal.SIGKILL)


# Signals


def train_until(config: TrainConfig, place: str, number: int, patch: pytest.MonkeyPatch) -> float:
    """Train until a signal comes while `place` is at work; returns the seconds that it took to stop."""
    sent: list[float] = []

    def strike(*arguments: Any, **options: Any) -> Any:
        if not sent:
            sent.append(time.monotonic())
            signal.raise_signal(number)
        return original(*arguments, **options)

    owner, name = {
        "the cache": ("segdistill.engine.fill_caches", "run_network"),
        "an evaluation": ("segdistill.engine.evaluate", "segment"),
        "the temperature": ("segdistill.engine.temperature", "segment"),
        "the report": ("segdistill.reporting.report", "write_atomic"),
        "a checkpoint": ("segdistill.engine.checkpoint", "write_atomic"),
    }[place]
    original = getattr(sys.modules[owner], name)
    with patch.context() as patched:
        patched.setattr(f"{owner}.{name}", strike)
        with pytest.raises(Stopped) as stopped:
            api.train(config, report=place == "the report")
    assert stopped.value.exit_code == 128 + number
    return time.monotonic() - sent[0]


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("the cache", signal.SIGTERM),
        ("an evaluation", signal.SIGINT),
        ("the temperature", signal.SIGTERM),
        ("the report", signal.SIGINT),
        ("a checkpoint", signal.SIGTERM),
    ],
)
def test_a_signal_anywhere_saves_and_stops(
    configure: Any, run: Path, distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    place: str, number: int,
) -> None:  # fmt: skip
    cache = str(tmp_path / "cache") if place == "the cache" else None
    config = configure(tmp_path / "run", teacher=TeacherConfig(spec=str(run), cache=cache))
    assert train_until(config, place, number, monkeypatch) < 10
    out = api.train(config, resume=True, report=False)
    if cache is None:  # the cache's numbers have half the digits
        ours, theirs = (Checkpoints(folder / "checkpoints").load() for folder in (out, distilled))
        assert ours is not None
        assert theirs is not None
        assert str(ours[1]) == str(theirs[1])
        ours, theirs = (
            [
                {key: value for key, value in json.loads(line).items() if key != "images_per_second"}
                for line in (folder / "history.jsonl").read_text().splitlines()
            ]
            for folder in (out, distilled)
        )
        assert ours == theirs


def test_a_signal_during_the_exchange_is_not_lost() -> None:
    stop = StopSignal()

    class Two:
        num_processes, device = 2, "cpu"

        def gather(self, flag: torch.Tensor) -> torch.Tensor:
            stop.number = signal.SIGINT
            return flag

    assert not must_stop(stop, Two())  # type: ignore[arg-type]
    assert must_stop(stop, Two())  # type: ignore[arg-type]
    assert stop.exit_code == 130


def test_a_process_that_lost_another_says_so_on_one_line() -> None:
    text = "[pair.cc:545] gloo: Read error [127.0.0.1]:25318: Connection reset by peer. This is typically"
    with pytest.raises(ChildProcessError, match=r"^another process of this training has ended: resume it"):
        with plain_failures():
            raise RuntimeError(text)


# Numbers that are not finite


def teacher_that_fails_on_dark_images(folder: Path) -> str:
    (folder / "broken.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Broken(nn.Module):\n"
        "    def forward(self, x):\n"
        "        logits = torch.zeros(len(x), 9, *x.shape[2:])\n"
        "        if len(x) > 1:\n            logits[2, 3, 4, 5] = float('nan')\n"
        "        return logits\n"
    )
    return f"{folder / 'broken.py'}:Broken"


def test_a_batch_that_is_not_finite_is_kept_and_computed_again(
    configure: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = TeacherConfig(spec=teacher_that_fails_on_dark_images(tmp_path), labels="data")
    config = configure(tmp_path / "run", teacher=teacher)
    with pytest.raises(
        NonFiniteLossError, match=r"^step 1: the soft loss is nan on (\S+); first in: the "
    ) as error:
        api.train(config, report=False)
    path = tmp_path / "run" / "nonfinite.json"
    dump = load_dump(path)
    record, batch, known = dump.record, dump.batch, dump.batch.teacher_logits
    assert known is not None
    assert record["bad"] == [batch.id[2]]
    assert batch.id[2] in str(error.value)
    assert not known[2].isfinite().all()
    assert known[[0, 1, 3]].isfinite().all()
    capsys.readouterr()
    assert cli.main(["train", "--replay", str(path)]) == 0
    out, err = capsys.readouterr()
    seen = json.loads(out)
    assert (seen["step"], seen["bad"], seen["nonfinite"]) == (1, record["bad"], record["nonfinite"])
    assert seen["nonfinite"][:2] == ["the teacher's logits", "soft loss"]
    assert seen["terms"]["soft"] == "nan"
    assert seen["terms"]["hard"] == pytest.approx(float(record["terms"]["hard"]), rel=1e-6)
    assert [name for name, terms in seen["images"].items() if terms["soft"] == "nan"] == record["bad"]
    assert f"{record['bad'][0]}: " in err


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move(
    configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Trainer._check_gradient

    def explode(trainer: Trainer, step: int, batch: Any) -> None:
        trainer.state.student.head.weight.grad.fill_(float("inf"))  # type: ignore[union-attr,operator]
        check(trainer, step, batch)

    monkeypatch.setattr(Trainer, "_check_gradient", explode)
    for clip in (0.0, 1.0):
        config = configure(tmp_path / f"run{clip}", optim=OptimConfig(clip=clip))
        with pytest.raises(NonFiniteLossError, match=r"^step 1: the gradient's norm is (inf|nan) on shape_"):
            api.train(config, report=False)
    assert not (tmp_path / "run0.0" / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_the_number_of_loaders_changes_no_bit(configure: Any, tmp_path: Path) -> None:
    alone = configure(tmp_path / "0", trackers=[])
    states = []
    for workers in (0, 1, 3):
        data = replace(alone.data, workers=workers)
        api.train(replace(alone, data=data, out=str(tmp_path / str(workers))), report=False)
        found = Checkpoints(tmp_path / str(workers) / "checkpoints").load()
        assert found is not None
        states.append(found[1])
    for state in states[1:]:
        for part in ("student", "optimizer"):
            ours, theirs = (
                torch.nn.utils.parameters_to_vector(_tensors(s[part])) for s in (state, states[0])
            )
            assert torch.equal(ours, theirs)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value.double().flatten()]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for part in parts for tensor in _tensors(part)]
