"""Devices, precisions, seeds, stop signals and the record of the environment."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import PartialState

from segdistill.engine import runtime
from segdistill.engine.runtime import (
    ECHO,
    PACKAGES,
    Stopped,
    environment,
    find_device,
    make_accelerator,
    resolve_precision,
    seed_step,
    stop_signal,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("precision", "mixed"), [("fp32", "no"), ("bf16", "bf16")])
def test_an_accelerator_has_the_precision_that_is_asked_for(precision: str, mixed: str) -> None:
    accelerator = make_accelerator("cpu", precision)  # type: ignore[arg-type]
    assert (accelerator.device.type, accelerator.mixed_precision) == ("cpu", mixed)


def test_a_second_accelerator_may_have_another_precision() -> None:
    found = [make_accelerator("cpu", kind).mixed_precision for kind in ("bf16", "fp32", "bf16")]
    assert found == ["bf16", "no", "bf16"]


def test_auto_is_a_precision_that_the_device_computes_in() -> None:
    assert resolve_precision("auto", "cpu") in {"fp32", "bf16"}
    assert resolve_precision("auto", "mps") == "fp32"
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("fp16", "cuda") == "fp16"


def test_half_precision_that_a_cpu_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runtime\.precision is fp16, but a CPU takes fp32 or bf16"):
        make_accelerator("cpu", "fp16")


def test_unknown_and_absent_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="device is 'tpu', but must be auto, cpu, cuda or mps"):
        make_accelerator("tpu")
    absent = [name for name, here in (
        ("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())
    ) if not here]  # fmt: skip
    for name in absent:
        with pytest.raises(ValueError, match=f"device is {name}, but this machine has none"):
            make_accelerator(name)
    assert absent


def test_trackers_write_into_the_run_folder(tmp_path: Path) -> None:
    accelerator = make_accelerator("cpu", "fp32", trackers=["tensorboard"], out=tmp_path)
    assert accelerator.logging_dir == str(tmp_path / "tensorboard")


def test_a_missing_tracker_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "get_available_trackers", list)
    with pytest.raises(ValueError, match=r"tensorboard, which is not installed: install segdistill\[tensorb"):
        make_accelerator("cpu", "fp32", trackers=["tensorboard"])
    with pytest.raises(ValueError, match="wandb, which is not installed: install its package wandb"):
        make_accelerator("cpu", "fp32", trackers=["wandb"])
    with pytest.raises(ValueError, match=r"did you mean tensorboard\?"):
        make_accelerator("cpu", "fp32", trackers=["tensorbord"])


def test_asking_for_a_device_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: pytest.fail("memory is kept from here on"))
    before = make_accelerator("cpu", "bf16")
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in {"cpu", "cuda", "mps"}
    assert (before.mixed_precision, PartialState().device.type) == ("bf16", "cpu")


def test_the_seed_of_a_step_depends_on_seed_step_and_process_alone() -> None:
    def draw(*key: int) -> float:
        seed_step(*key)
        return float(torch.rand(()))

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 10**7, 63)]
    values = [draw(*key) for key in keys]
    assert len(set(values)) == len(keys)
    assert [draw(*key) for key in reversed(keys)] == values[::-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_not_obeyed(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with stop_signal() as stop:
        assert stop.number is None
        signal.raise_signal(number)
        assert (stop.number, stop.exit_code) == (number, code)
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with stop_signal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # which a launcher passes on at once
        stop.since -= ECHO
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


def test_where_it_is_obeyed_a_signal_ends_the_work_whatever_handles_errors() -> None:
    with pytest.raises(Stopped) as stopped, stop_signal(obey=True), suppress(Exception):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143


def test_signals_are_handled_as_before_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="broken"), stop_signal():
        raise RuntimeError("broken")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with stop_signal() as stop:
            seen.append(stop.number)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_kept_memory_is_not_mapped_again() -> None:
    code = """
import resource, torch
from segdistill import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
mapped = []
for turn in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(1 << 24).add(1)
    mapped.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(mapped)[6])  # where in the heap the tensors lie changes for some turns
"""
    kept, plain = (
        int(subprocess.check_output([sys.executable, "-c", code.format(keep=keep)])) for keep in (True, False)
    )
    assert 10 * kept < plain  # two tensors of 64 MiB are 32,768 small pages, or 64 huge ones


def test_the_environment_names_what_a_result_depends_on(accelerator: Accelerator) -> None:
    record = json.loads(json.dumps(environment(accelerator)))
    assert record["packages"].keys() == set(PACKAGES)
    assert torch.__version__.startswith(record["packages"]["torch"])  # which is without +cpu or +cu130
    assert (record["device"], record["precision"], record["processes"]) == ("cpu", "fp32", 1)
    assert record["threads"] == torch.get_num_threads()
    assert record["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", record["commit"])
