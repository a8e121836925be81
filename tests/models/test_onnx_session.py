"""What of onnxruntime computes a file: passed on as asked, or refused with what there is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segdistill.config.deploy import BenchmarkConfig
from segdistill.models.exported import ExportedNetwork
from segdistill.models.onnx_session import PROVIDERS, OnnxSession
from segdistill.models.streams import choose_streams, stream_threads
from segdistill.models.trained import LoadOptions, load_network
from segdistill.profiling.benchmark import measure

pytestmark = pytest.mark.unit


def test_the_cpu_gives_what_it_gives_unasked(make_onnx: Any) -> None:
    pytest.importorskip("onnxruntime")
    path, values = make_onnx(nn.Conv2d(3, 21, 1)), np.ones((1, 3, 4, 5), np.float32)
    expected, found = (ExportedNetwork(path, provider=name).run(values) for name in (None, "cpu"))
    np.testing.assert_array_equal(expected, found)


def test_a_provider_that_is_not_there_is_refused_with_those_that_are(make_onnx: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    path = make_onnx(nn.Conv2d(3, 21, 1))
    with pytest.raises(
        ValueError, match=r"provider is 'tensorrt', but this onnxruntime has cpu: install onn"
    ):
        load_network(str(path), LoadOptions(provider="tensorrt"))


class Session:
    """Stands for onnxruntime's, which starts what `works` names."""

    works = frozenset(name for names in PROVIDERS.values() for name in names)

    def __init__(self, path: Path, options: Any, providers: list[str]) -> None:
        del path
        self.options, self.providers = options, [name for name in providers if name in self.works]

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        count, _, *size = inputs["image"].shape
        return [np.zeros((count, 21, *size), np.float32)]

    def get_providers(self) -> list[str]:
        return self.providers

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image")]

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions that were opened, with every provider at hand."""
    onnxruntime = pytest.importorskip("onnxruntime")
    sessions: list[Session] = []

    def make(*given: Any, **named: Any) -> Session:
        sessions.append(Session(*given, **named))
        return sessions[-1]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: sorted(Session.works))
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    return sessions


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_comes_first_and_the_cpu_last(opened: list[Session], name: str) -> None:
    OnnxSession(Path("x.onnx"), 3, name)
    assert tuple(opened[0].providers) == PROVIDERS[name]
    assert opened[0].providers[-1] == "CPUExecutionProvider"
    assert opened[0].options.intra_op_num_threads == 3
    assert opened[0].options.enable_mem_pattern is (name != "directml")


def test_a_provider_that_does_not_start_is_refused(
    opened: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "works", frozenset({"CPUExecutionProvider", "TensorrtExecutionProvider"}))
    OnnxSession(Path("x.onnx"), 1, None)
    assert opened[-1].providers == ["CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ValueError, match="provider is 'cuda', but onnxruntime could not start it"):
        OnnxSession(Path("x.onnx"), 1, "cuda")


@pytest.mark.parametrize(
    ("provider", "on_cpu"),
    [("cpu", True), ("cuda", False), ("tensorrt", False), ("directml", False), (None, False)],
)
def test_an_accelerator_computes_one_pass_at_a_time(
    opened: list[Session], tmp_path: Path, provider: str | None, on_cpu: bool
) -> None:
    (tmp_path / "x.onnx").touch()
    network = load_network(str(tmp_path / "x.onnx"), LoadOptions(provider=provider))
    assert network.concurrent is on_cpu
    assert choose_streams(3, torch.device("cpu"), concurrent=network.concurrent) == (3 if on_cpu else 1)
    with stream_threads(3) as pool:
        pool.submit(network, torch.zeros(1, 3, 4, 4)).result(20)
    assert len(opened) == (2 if on_cpu else 1)


def test_no_provider_falls_back_to_a_cpu_that_computes_several(
    opened: list[Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Session, "works", frozenset({"CPUExecutionProvider"}))
    (tmp_path / "x.onnx").touch()
    assert load_network(str(tmp_path / "x.onnx")).concurrent
    assert opened[0].providers == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("threads", "streams", "own"), [(8, 1, 8), (8, 2, 7), (8, 8, 1), (16, 8, 9), (2, 5, 1)]
)
def test_streams_have_all_threads_and_no_more(
    opened: list[Session], tmp_path: Path, threads: int, streams: int, own: int
) -> None:
    """Each stream computes in its own thread; `own` counts one of them and those that help."""
    (tmp_path / "x.onnx").touch()
    ExportedNetwork(tmp_path / "x.onnx", threads=threads, provider="cpu").open_streams(streams)
    assert opened[-1].options.intra_op_num_threads == own
    assert own + streams - 1 == max(threads, streams)
    for session in opened:
        assert session.options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads as Linux shows them")
def test_a_session_starts_the_threads_that_help(make_onnx: Any) -> None:
    def running() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    pytest.importorskip("onnxruntime")
    path = make_onnx(nn.Conv2d(3, 21, 1))
    OnnxSession(path, 1, "cpu")  # starts what the runtime has for all sessions
    before = running()
    sessions = [OnnxSession(path, 6, "cpu", streams=3)]
    assert running() - before == 3  # and three streams compute
    sessions.append(OnnxSession(path, 6, "cpu"))
    assert running() - before == 3 + 5


def test_other_networks_take_no_provider(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is run by PyTorch, but provider is for \.onnx files"):
        load_network(str(run), LoadOptions(provider="cpu"))
    file = tmp_path / "x.pt2"
    file.touch()
    with pytest.raises(ValueError, match=r"x\.pt2 is a torch\.export network, but provider is for"):
        load_network(str(file), LoadOptions(provider="cpu"))
    with pytest.raises(ValueError, match="no target is one: leave it out"):
        measure([str(run)], BenchmarkConfig(provider="cpu"))
