"""Targets side by side: what is measured, in which order, and against what."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill import cli
from segdistill.config.deploy import BenchmarkConfig
from segdistill.profiling import benchmark as side_by_side
from segdistill.profiling.benchmark import Entry, entries, file_bytes, measure

pytestmark = pytest.mark.integration


class Fake:
    """Stands for a process: each pass takes ten times as long as the first target's."""

    calls: list[str]

    def __init__(self, make: Any, entry: Entry, config: BenchmarkConfig) -> None:
        self.entry, self.passes = entry, 0

    def __enter__(self) -> "Fake":
        return self

    def __exit__(self, *error: object) -> None:
        Fake.calls.append(f"end {self.entry.target}")

    def call(self, method: str, *arguments: Any) -> Any:
        if method != "seconds":
            return {"cost": {"parameters": 1, "flops": 2}, "memory": {"peak_bytes": 3, "added_bytes": 1}}.get(
                method, 2
            )
        Fake.calls.append(self.entry.target)
        self.passes += 1
        slow = 100.0 if self.passes == 1 else float(self.passes)  # the first pass warms up
        return slow * {"a": 0.01, "b": 0.1}[self.entry.target]


def test_targets_take_turns_and_are_compared_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake.calls = []
    monkeypatch.setattr(side_by_side, "WorkerProcess", Fake)
    record = measure(["a", "b"], BenchmarkConfig(warmup=1, repeats=3, batch=4))
    assert Fake.calls == ["a", "b"] * 4 + ["end b", "end a"]
    first, second = record["entries"]
    assert first["median_ms"] == pytest.approx(30)  # of 20, 30 and 40
    assert first["p95_ms"] == pytest.approx(39)
    assert first["images_per_second"] == pytest.approx(4 / 0.03)
    assert (first["ratio"], second["ratio"]) == (1, pytest.approx(0.1))


def test_what_is_measured() -> None:
    config = BenchmarkConfig(forms=["eager", "fused"], precisions=["fp32", "bf16"])
    found = [(e.target, e.form, e.precision) for e in entries(["dsunet", "m.onnx", "m.xml"], config)]
    assert found == [
        ("dsunet", "eager", "fp32"),
        ("dsunet", "eager", "bf16"),
        ("dsunet", "fused", "fp32"),
        ("dsunet", "fused", "bf16"),
        ("m.onnx", "onnx", "fp32"),
        ("m.xml", "openvino", "fp32"),
        ("m.xml", "openvino", "bf16"),
    ]


def test_a_network_without_a_run_has_random_weights_and_no_file() -> None:
    entry = Entry(target="lraspp_mobilenet_v3_large", form="eager", precision="fp32")
    network = side_by_side.Measured(entry, BenchmarkConfig(size=32, classes=5))
    cost = network.cost((32, 32))
    assert cost["parameters"] is not None
    assert 3_000_000 < cost["parameters"] < 4_000_000
    assert network.seconds() > 0
    assert file_bytes(entry.target) is None


def test_sizes_of_files(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_bytes(b"12")
    (tmp_path / "m.bin").write_bytes(b"345")
    assert file_bytes(str(tmp_path / "m.xml")) == 5
    assert file_bytes("dsunet") is None


def test_what_is_compiled_in_half_precision_leaves_the_network_itself_alone() -> None:
    network = torch.nn.Conv2d(3, 2, 1)
    entry = Entry(target="conv", form="compiled", precision="bf16")
    side_by_side._torch_pass(network, entry, torch.zeros(1, 3, 8, 8), torch.device("cpu"))
    assert network.weight.dtype == torch.float32
    assert network(torch.zeros(1, 3, 8, 8)).dtype == torch.float32


class ThisProcess:
    """Stands for a process, in which starting Python takes the most time: everything is done in this one."""

    def __init__(self, make: Any, *arguments: Any) -> None:
        self.held = make(*pickle.loads(pickle.dumps(arguments)))

    def __enter__(self) -> "ThisProcess":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.held, method)(*arguments)


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "WorkerProcess", ThisProcess)
    options = "--repeats 2 --warmup 1 --size 32 --threads 1".split()
    assert cli.main(["benchmark", str(run), *options]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["input"] == [1, 3, 32, 32]
    [student] = record["entries"]
    assert student["parameters"] == 26_764
    assert student["file_bytes"] == (run / "model.safetensors").stat().st_size
    assert student["threads"] == 1
    assert min(student["median_ms"], student["flops"], student["peak_bytes"]) > 0
    assert "cpu, 1 x 32 x 32, 2 passes each" in err


@pytest.mark.parametrize(("given", "expected"), [(320, (320, 320)), ((32, 48), (32, 48))])
def test_one_number_is_a_square(given: int | tuple[int, int], expected: tuple[int, int]) -> None:
    assert BenchmarkConfig(size=given).height_width == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forms": ["fast"]}, "forms is"),
        ({"precisions": []}, "precisions is"),
        ({"size": (0, 3)}, "size is"),
        ({"size": 0}, "size is"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**changes)
