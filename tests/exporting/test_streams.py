"""Networks that several threads call at a time compute what they compute one after the other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from segdistill.models.exported import ExportedNetwork
from segdistill.models.fused import fuse_students
from segdistill.models.streams import stream_threads
from segdistill.models.trained import load_network

pytestmark = pytest.mark.integration
SIZES = [(33, 47), (48, 48), (48, 48), (21, 64), (48, 48), (33, 47)] * 4


@pytest.mark.parametrize("form", ["pytorch", "onnx", "openvino"])
def test_passes_at_a_time_give_the_logits_of_single_ones(
    run: Path, exported: Callable[[str], Path], form: str
) -> None:
    network = fuse_students(load_network(str(run if form == "pytorch" else exported(form))))
    assert network.concurrent
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, *size, generator=generator) for size in SIZES]

    @torch.inference_mode()
    def logits(image: torch.Tensor) -> torch.Tensor:
        return network(image)

    expected = [logits(image) for image in images]
    with stream_threads(3) as pool:
        found = list(pool.map(logits, images))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
    if isinstance(network.module, ExportedNetwork):
        assert sorted(network.module.runs) == [1, 3]


def test_an_image_that_a_file_refuses_fails_alone(exported: Callable[[str], Path]) -> None:
    network = load_network(str(exported("openvino")))
    images = [torch.zeros(1, 3, height, 32) for height in (32, 0, 32, 32)]
    with stream_threads(2) as pool:
        futures = [pool.submit(network.module, image) for image in images]
        errors = [future.exception() for future in futures]
    assert [error is None for error in errors] == [True, False, True, True]
    assert isinstance(errors[1], ValueError)
    assert "cannot take 1x3x0x32 images" in str(errors[1])


def test_a_runtime_of_one_pass_at_a_time_is_opened_once(exported: Callable[[str], Path]) -> None:
    network = load_network(str(exported("pt2")))
    assert not network.concurrent
    with stream_threads(2) as pool, torch.inference_mode():
        assert pool.submit(network, torch.zeros(1, 3, 32, 32)).result().shape[2:] == (32, 32)
    assert list(network.module.runs) == [1]  # type: ignore[union-attr]


def test_code_of_ones_own_is_called_by_one_thread(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n\ndef net():\n    module = nn.Conv2d(3, 2, 1)\n"
        "    module.labels = ['a', 'b']\n    return module\n"
    )
    assert not load_network(f"{file}:net").concurrent


def test_infer_requests_of_openvino_are_used_again(exported: Callable[[str], Path]) -> None:
    network = load_network(str(exported("openvino")))
    image = torch.zeros(1, 3, 40, 24)
    with stream_threads(2) as pool:
        list(pool.map(network.module, [image] * 12))
    graphs = network.module.runs[2]  # type: ignore[union-attr,index]
    assert graphs.own_shape == (1, 40, 24, 3)  # type: ignore[union-attr]
    for graph in (graphs.free, graphs.own):  # type: ignore[union-attr]
        assert graph.busy == 0
        assert len(graph.idle) <= 2


def test_one_thread_after_the_other_waits_for_no_one(exported: Callable[[str], Path]) -> None:
    network = load_network(str(exported("onnx")))
    with ThreadPoolExecutor(2) as pool:  # which share no cores
        list(pool.map(network.module, [torch.zeros(1, 3, 32, 32)] * 4))
    assert list(network.module.runs) == [1]  # type: ignore[union-attr]
