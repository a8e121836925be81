"""What of onnxruntime computes a file: passed on as asked, or refused with what there is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from segdistill.config.deploy import BenchmarkConfig
from segdistill.models.exported import ExportedNetwork
from segdistill.models.onnx_session import PROVIDERS, open_session
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
    open_session(Path("x.onnx"), 3, name)
    assert tuple(opened[0].providers) == PROVIDERS[name]
    assert opened[0].providers[-1] == "CPUExecutionProvider"
    assert opened[0].options.intra_op_num_threads == 3
    assert opened[0].options.enable_mem_pattern is (name != "directml")


def test_a_provider_that_does_not_start_is_refused(
    opened: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "works", frozenset({"CPUExecutionProvider", "TensorrtExecutionProvider"}))
    open_session(Path("x.onnx"), 1, None)
    assert opened[-1].providers == ["CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ValueError, match="provider is 'cuda', but onnxruntime could not start it"):
        open_session(Path("x.onnx"), 1, "cuda")


def test_other_networks_take_no_provider(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is run by PyTorch, but provider is for \.onnx files"):
        load_network(str(run), LoadOptions(provider="cpu"))
    file = tmp_path / "x.pt2"
    file.touch()
    with pytest.raises(ValueError, match=r"x\.pt2 is a torch\.export network, but provider is for"):
        load_network(str(file), LoadOptions(provider="cpu"))
    with pytest.raises(ValueError, match="no target is one: leave it out"):
        measure([str(run)], BenchmarkConfig(provider="cpu"))
