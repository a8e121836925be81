"""Who is within a budget, and who of them is trained."""

from typing import Any

import pytest
import torch

from segdistill.config.search import SearchConfig
from segdistill.config.train import StudentConfig
from segdistill.data.labels import LabelSet
from segdistill.profiling.device import Latency
from segdistill.searching.candidates import Candidate
from segdistill.searching.latency import choose_members, export_candidates, judge, require_some, untrained

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("background", "cat"), palette=((0, 0, 0), (200, 30, 40)))


def candidate(key: str, family: str = "dsunet") -> Candidate:
    return Candidate(
        network=key, family=family, student=StudentConfig(width=0.03, stride=4), size=32, lr=None
    )


def judged(latencies: dict[str, Latency], **budget: Any) -> dict[str, dict[str, Any]]:
    candidates = {key: candidate(key) for key in latencies}
    exported = {key: {"file": f"{key}.onnx", "bytes": 2_000_000, "parameters": 10} for key in latencies}
    return judge(candidates, exported, latencies, SearchConfig(**{"latency": "10ms", **budget}))


def around(median: float, width: float = 1.0) -> Latency:
    return Latency(median_ms=median, low_ms=median - width, high_ms=median + width, peak_bytes=100_000_000)


def test_over_is_what_lies_above_the_budget_with_its_whole_interval() -> None:
    found = judged({"a": around(9.0), "b": around(10.9), "c": around(11.1), "d": Latency(error="it died")})
    assert [record["verdict"] for record in found.values()] == ["within", "within", "over", "failed"]
    assert found["c"]["reason"] == "latency 11.10 ms (10.10 to 12.10)"
    assert found["d"]["reason"] == "it died"


def test_what_was_not_measured_is_over_and_never_the_fastest() -> None:
    found = judged({"a-64": around(30.0), "a-96": Latency(slower_than="a-64")})
    assert found["a-96"]["verdict"] == "over"
    assert found["a-96"]["reason"] == "not measured, as a-64 is far over the budget"
    with pytest.raises(ValueError, match=r"the fastest is a-64 with 30\.00 ms"):
        require_some(found, SearchConfig(latency="10ms"))


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
        require_some(found, config)
    require_some(judged({"a": around(1.0)}), config)


def test_the_slowest_of_each_family_are_trained_first() -> None:
    families = {"a": "dsunet", "b": "dsunet", "c": "timm", "d": "timm", "e": "teacher", "f": "timm"}
    candidates = {key: candidate(key, family) for key, family in families.items()}
    found = {
        key: {"verdict": "within", "median_ms": ms}
        for key, ms in zip("abcdef", (1, 2, 9, 8, 3, 7), strict=True)
    }
    found["c"]["verdict"] = "over"
    assert choose_members(candidates, found, 4) == (["d", "e", "b", "f"], ["a"])


def test_a_network_that_cannot_be_exported_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from segdistill.searching import latency

    def write(network: Any, path: Any, *_: Any) -> None:
        if network.spec == "bad":
            raise RuntimeError("no such operator\nand a page of more")
        path.write_bytes(b"12345")

    monkeypatch.setattr(latency, "write_unchecked", write)
    candidates = {key: candidate(key) for key in ("bad", "good")}
    steps: list[int] = []
    found = export_candidates(
        candidates, LABELS, None, SearchConfig(latency="1ms"), tmp_path, lambda: steps.append(1)
    )  # type: ignore[arg-type]
    assert found["bad"] == {"error": "cannot be exported: no such operator"}
    assert found["good"] == {
        "file": "good.onnx", "bytes": 5,
        "parameters": sum(p.numel() for p in untrained(candidates["good"], LABELS).parameters()),
    }  # fmt: skip
    verdicts = judge(candidates, found, {"good": around(1.0)}, SearchConfig(latency="10ms"))
    assert [verdicts[key]["verdict"] for key in candidates] == ["failed", "within"]


def test_candidates_are_measured_with_random_weights_and_one_logit_per_class() -> None:
    network = untrained(candidate("a"), LABELS)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)
