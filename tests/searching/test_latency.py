"""Who is within a budget, and who of them is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill.config.search import SearchConfig
from segdistill.config.train import DataConfig, StudentConfig, TeacherConfig, TrainConfig
from segdistill.data.labels import LabelSet
from segdistill.profiling.device import Latency
from segdistill.searching.budget import Budget, baseline_candidate, resolve_budget
from segdistill.searching.candidates import BASELINE, Candidate
from segdistill.searching.latency import choose_members, export_candidates, judge, require_some, untrained

pytestmark = pytest.mark.unit
BUDGET = Budget(milliseconds=10.0, text="10ms")
LABELS = LabelSet(names=("background", "cat"), palette=((0, 0, 0), (200, 30, 40)))


def candidate(key: str, family: str = "dsunet") -> Candidate:
    return Candidate(
        network=key, family=family, student=StudentConfig(width=0.03, stride=4), size=32, lr=None
    )


def judged(latencies: dict[str, Latency], **budget: Any) -> dict[str, dict[str, Any]]:
    candidates = {key: candidate(key) for key in latencies}
    exported = {key: {"file": f"{key}.onnx", "bytes": 2_000_000, "parameters": 10} for key in latencies}
    config = SearchConfig(**{"latency": "10ms", **budget})
    return judge(candidates, exported, latencies, config, resolve_budget(config, TrainConfig(), latencies))


def around(median: float, width: float = 1.0) -> Latency:
    return Latency(median_ms=median, low_ms=median - width, high_ms=median + width, peak_bytes=100_000_000)


def test_over_is_what_lies_above_the_budget_with_its_whole_interval() -> None:
    found = judged({"a": around(9.0), "b": around(10.9), "c": around(11.1), "d": Latency(error="it died")})
    assert [record["verdict"] for record in found.values()] == ["within", "within", "over", "failed"]
    assert found["c"]["reason"] == "latency 11.10 ms (10.10 to 12.10)"
    assert found["d"]["reason"] == "it died"


def test_a_budget_may_be_a_multiple_of_a_baseline() -> None:
    config = SearchConfig(latency="0.5x", baseline="lraspp_mobilenet_v3_large", size=64)
    [(key, baseline)] = baseline_candidate(config, TrainConfig()).items()
    assert (key, baseline.family, baseline.student.spec) == ("baseline-64", BASELINE, config.baseline)
    budget = resolve_budget(config, TrainConfig(), {key: around(20.0)})
    assert budget.milliseconds == 10.0
    assert budget.text == "10.00 ms (0.5x lraspp_mobilenet_v3_large at 64 pixels)"
    with pytest.raises(ValueError, match="the baseline lraspp_mobilenet_v3_large could not be measured: no"):
        resolve_budget(config, TrainConfig(), {key: Latency(error="no")})
    assert baseline_candidate(SearchConfig(latency="10ms"), TrainConfig()) == {}


def test_the_baseline_is_the_teacher_unless_another_is_named() -> None:
    config = SearchConfig(latency="0.25x")

    def baseline(spec: str | list[str] | None) -> str:
        recipe = TrainConfig(data=DataConfig(root="x"), teacher=TeacherConfig(spec=spec))
        [found] = baseline_candidate(config, recipe).values()
        return found.student.spec

    assert baseline("fcn_resnet50") == "fcn_resnet50"
    with pytest.raises(ValueError, match=r"there are several teachers: name a network with (--)?baseline"):
        baseline(["fcn_resnet50", "lraspp_mobilenet_v3_large"])
    with pytest.raises(ValueError, match="there is no network 'fcn_resnet5'"):
        baseline_candidate(SearchConfig(latency="1x", baseline="fcn_resnet5"), TrainConfig())


def test_a_baseline_has_classes_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\n\n\ndef build():\n    return nn.Conv2d(3, 3, 1)\n")
    student = StudentConfig(spec=f"{file}:build")
    assert len(untrained(replace(candidate("a", BASELINE), student=student), LABELS).labels) == 3
    with pytest.raises(ValueError, match="it gives 3 logits for 2 classes"):
        untrained(replace(candidate("a"), student=student), LABELS)


def test_what_was_not_measured_is_over_and_never_the_fastest() -> None:
    found = judged({"a-64": around(30.0), "a-96": Latency(slower_than="a-64")})
    assert found["a-96"]["verdict"] == "over"
    assert found["a-96"]["reason"] == "not measured, as a-64 is far over the budget"
    with pytest.raises(ValueError, match=r"the fastest is a-64 with 30\.00 ms"):
        require_some(found, SearchConfig(latency="10ms"), BUDGET)


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        ({"memory": "101MB"}, "within"),
        ({"memory": "99MB"}, "over"),
        ({"file_size": "2MB"}, "within"),
        ({"file_size": "1.9MB"}, "over"),
    ],
)
def test_memory_and_file_size_are_budgets_too(budget: dict[str, str], verdict: str) -> None:
    assert judged({"a": around(1.0)}, **budget)["a"]["verdict"] == verdict


def test_a_budget_that_nothing_meets_names_the_fastest() -> None:
    config = SearchConfig(latency="1ms", file_size="3MB")
    found = judged({"a": around(9.0), "b": around(4.0)}, latency="1ms", file_size="3MB")
    with pytest.raises(ValueError, match=r"^no candidate meets the budget \(latency 1ms, file_size 3MB\): "
                       r"the fastest is b with 4\.00 ms \(3\.00 to 5\.00\), 2\.0 MB"):  # fmt: skip
        require_some(found, config, Budget(milliseconds=1.0, text="1ms"))
    require_some(judged({"a": around(1.0)}), config, BUDGET)


def test_the_slowest_of_each_family_are_trained_first() -> None:
    families = {"a": "dsunet", "b": "dsunet", "c": "timm", "d": "timm", "e": "teacher", "f": "timm"}
    candidates = {key: candidate(key, family) for key, family in families.items()}
    found = {
        key: {"verdict": "within", "median_ms": ms}
        for key, ms in zip("abcdef", (1, 2, 9, 8, 3, 7), strict=True)
    }
    found["c"]["verdict"] = "over"
    assert choose_members(candidates, found, 4) == (["d", "e", "b", "f"], ["a"])


BAD = """
import os
from torch import nn


class Raises(nn.Conv2d):
    def forward(self, image):
        raise RuntimeError("no such operator\\nand a page of more")


class Dies(nn.Conv2d):
    def forward(self, image):
        os._exit(9)


def raises():
    return Raises(3, 2, 1)


def dies():
    return Dies(3, 2, 1)
"""


def test_what_cannot_be_exported_is_recorded_even_if_it_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    candidates = {key: candidate(key) for key in ("raises", "dies", "good")}
    for key in ("raises", "dies"):
        student = StudentConfig(spec=f"{tmp_path / 'bad.py'}:{key}")
        candidates[key] = replace(candidates[key], student=student)
    steps: list[int] = []
    found = export_candidates(
        candidates, LABELS, TrainConfig(), SearchConfig(latency="1ms"), tmp_path, lambda: steps.append(1)
    )
    assert found["raises"] == {"error": "cannot be exported: no such operator"}
    assert found["dies"] == {"error": "cannot be exported: the process that did it died"}
    assert found["good"] == {
        "file": "good.onnx", "bytes": (tmp_path / "good.onnx").stat().st_size,
        "parameters": sum(p.numel() for p in untrained(candidates["good"], LABELS).parameters()),
    }  # fmt: skip
    assert len(steps) == 3
    verdicts = judge(candidates, found, {"good": around(1.0)}, SearchConfig(latency="10ms"), BUDGET)
    assert [verdicts[key]["verdict"] for key in candidates] == ["failed", "failed", "within"]


def test_candidates_are_measured_with_random_weights_and_one_logit_per_class() -> None:
    network = untrained(candidate("a"), LABELS)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)
