"""Networks that are measured by a script of their own, perhaps on another machine."""

import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill import api, cli
from segdistill.profiling.device import SCRIPT, Job, JobSettings, median_ranks, read_latencies, write_jobs

pytestmark = pytest.mark.unit

SETTINGS = JobSettings(runtime="onnx", precision="fp32", threads=1, repeats=4)


@pytest.mark.parametrize(
    ("count", "ranks"), [(1, (0, 0)), (5, (0, 4)), (6, (0, 5)), (20, (5, 14)), (30, (9, 20))]
)
def test_the_ranks_of_a_medians_interval(count: int, ranks: tuple[int, int]) -> None:
    # Of 20 the 6th and the 15th, of 30 the 10th and the 21st: tables of the sign test.
    assert median_ranks(count) == ranks


def test_latency_is_a_multiple_of_the_references_beside_it(tmp_path: Path) -> None:
    jobs = [Job(name=name, file=f"{name}.onnx", shape=(1, 8, 8, 3)) for name in "ab"]
    write_jobs(tmp_path, jobs, SETTINGS)
    assert (tmp_path / "measure.py").read_text() == SCRIPT.read_text()
    assert read_latencies(tmp_path) is None
    # The machine became three times as slow while b was measured; b is twice as slow as the reference.
    entries = [
        {"name": "a", "seconds": [1.0, 1.0, 1.0], "reference_seconds": [1.0, 1.0, 1.0], "peak_bytes": 5},
        {"name": "b", "seconds": [6.0, 6.0, 6.6], "reference_seconds": [3.0, 3.0, 3.0], "peak_bytes": None},
    ]
    write_measured(tmp_path, entries)
    found = read_latencies(tmp_path)
    assert found is not None
    scale = 1000 * statistics.median([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    assert [found[name].median_ms for name in "ab"] == [scale, 2 * scale]
    assert (found["b"].low_ms, found["b"].high_ms) == (2 * scale, pytest.approx(2.2 * scale))
    assert found["a"].peak_bytes == 5


def write_measured(folder: Path, entries: list[dict[str, Any]], digest: str | None = None) -> None:
    import hashlib

    own = hashlib.sha256((folder / "jobs.json").read_bytes()).hexdigest()
    record = {"jobs_sha256": digest or own, "machine": "m", "runtime": "r", "entries": entries}
    (folder / "measured.json").write_text(json.dumps(record))


def test_results_of_other_networks_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    jobs = [Job(name="a", file="a.onnx", shape=(1, 8, 8, 3))]
    write_jobs(tmp_path, jobs, SETTINGS)
    write_measured(tmp_path, [], "0" * 64)
    with pytest.raises(ValueError, match="is of other networks"):
        read_latencies(tmp_path)
    write_measured(tmp_path, [])
    assert read_latencies(tmp_path) is None
    write_measured(tmp_path, [{"name": "a", "seconds": [1.0]}])
    with pytest.raises(ValueError, match="is damaged"):
        read_latencies(tmp_path)


def write_cast(path: Path) -> None:
    """An ONNX file that turns pixels into floats."""
    import onnx

    shape = ["N", "H", "W", 3]
    values = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, shape)
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    cast = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph([cast], "cast", [values], [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)


def test_the_script_needs_nothing_of_segdistill_and_says_what_it_cannot_measure(tmp_path: Path) -> None:
    write_cast(tmp_path / "cast.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    jobs = [Job(name=name, file=f"{name}.onnx", shape=(1, 64, 64, 3)) for name in ("broken", "cast")]
    write_jobs(tmp_path, jobs, SETTINGS)
    moved = shutil.copytree(tmp_path, tmp_path / "moved")
    command = [sys.executable, "-I", str(moved / "measure.py")]
    subprocess.run(command, check=True, capture_output=True)
    found = read_latencies(moved)
    assert found is not None
    cast_latency, broken = found["cast"], found["broken"]  # the reference is the first one that opens
    assert cast_latency.low_ms is not None
    assert 0 < cast_latency.low_ms <= cast_latency.median_ms <= cast_latency.high_ms  # type: ignore[operator]
    assert "broken.onnx" in (broken.error or "")
    # Started again, it measures what is left.
    record = json.loads((moved / "measured.json").read_text())
    record["entries"] = record["entries"][1:]
    (moved / "measured.json").write_text(json.dumps(record))
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "cast" not in again.stderr
    assert read_latencies(moved) == found


@pytest.mark.parametrize("budget", [{"most_seconds": 1e-9}, {"most_times": 1e-6}])
def test_a_file_far_over_the_budget_is_not_measured_with_larger_inputs_too(
    tmp_path: Path, budget: dict[str, float]
) -> None:
    write_cast(tmp_path / "slow.onnx")
    write_cast(tmp_path / "other.onnx")
    jobs = [
        Job(name=f"{stem}-{size}", file=f"{stem}.onnx", shape=(1, size, size, 3))
        for stem, size in (("slow", 16), ("slow", 32), ("slow", 8), ("other", 16))
    ]
    write_jobs(tmp_path, jobs, replace(SETTINGS, **budget))
    subprocess.run([sys.executable, str(tmp_path / "measure.py")], check=True, capture_output=True)
    found = read_latencies(tmp_path)
    assert found is not None
    assert {name: latency.slower_than for name, latency in found.items()} == {
        "slow-16": None, "slow-32": "slow-16", "slow-8": None, "other-16": None,
    }  # fmt: skip
    assert [latency.median_ms is None for latency in found.values()] == [False, True, False, False]


def test_the_script_says_that_no_network_opens(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    write_jobs(tmp_path, [Job(name="broken", file="broken.onnx", shape=(1, 8, 8, 3))], SETTINGS)
    done = subprocess.run([sys.executable, str(tmp_path / "measure.py")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no network could be opened; the first, broken: " in done.stderr


@pytest.mark.integration
def test_exported_files_are_benchmarked_on_another_machine(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(api.export(run, out=str(tmp_path / "student.onnx"))["file"])
    device = tmp_path / "device" / "measured.json"
    command = ["benchmark", str(file), "--device_file", str(device), "--size", "32", "--repeats", "3"]
    assert cli.main(command) == 0
    out = capsys.readouterr()
    assert json.loads(out.out.splitlines()[-1]) == {"waiting_for": str(device)}
    assert "python measure.py" in " ".join(out.err.split())
    subprocess.run([sys.executable, "-I", str(device.with_name("measure.py"))], check=True)
    assert cli.main(command) == 0
    [entry] = json.loads(capsys.readouterr().out.splitlines()[-1])["entries"]
    assert entry["ratio"] == 1.0
    assert 0 < entry["median_ms"] <= entry["p95_ms"] * 1.0001


def test_other_targets_cannot_be_measured_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = str(tmp_path / "measured.json")
    assert cli.main(["benchmark", "dsunet", "--device_file", device]) == 1
    assert "all must be .onnx files" in capsys.readouterr().err
    assert cli.main(["benchmark", "dsunet", "--device_file", "other.json"]) == 1
    assert "a file called measured.json" in capsys.readouterr().err
