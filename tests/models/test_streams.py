"""Streams: threads that share the cores, and how many there are."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from segdistill.models.exported import ExportedNetwork
from segdistill.models.streams import MAX_STREAMS, choose_streams, share_cores, sharing, stream_threads

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def seen() -> tuple[int, int]:
    return sharing(), torch.get_num_threads()


def test_threads_share_the_cores_and_the_caller_keeps_its_own() -> None:
    with stream_threads(2) as pool:
        assert {pool.submit(seen).result(20) for _ in range(6)} == {(2, 2)}
        assert seen() == (1, 4)
    assert seen() == (1, 4)
    with ThreadPoolExecutor(1) as later:
        assert later.submit(seen).result(20) == (1, 4)


def test_more_streams_than_threads_have_one_each() -> None:
    with stream_threads(9) as pool:
        assert pool.submit(seen).result(20) == (9, 1)


def test_a_thread_that_is_alone_has_all_cores() -> None:
    def both() -> list[tuple[int, int]]:
        found = []
        for streams in (2, 1):
            share_cores(streams, 4)
            found.append(seen())
        return found

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(both).result(20) == [(2, 2), (1, 4)]


def test_how_many_streams_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_streams(0, cpu, concurrent=True) == 4
    assert choose_streams(3, cpu, concurrent=True) == 3
    assert choose_streams(3, cpu, concurrent=False) == 1
    assert choose_streams(3, cuda, concurrent=True) == 1
    torch.set_num_threads(64)
    assert choose_streams(0, cpu, concurrent=True) == MAX_STREAMS


def test_a_file_that_cannot_be_opened_once_more_says_so(
    make_onnx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError("no memory\nat line 3")

    onnxruntime = pytest.importorskip("onnxruntime")
    network = ExportedNetwork(make_onnx(nn.Conv2d(3, 2, 1)), provider="cpu")
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(ValueError, match=r"cannot be opened for 3 streams: no memory \(streams 1"):
        network.open_streams(3)
    network.open_streams(1)
    assert list(network.runs) == [1]
