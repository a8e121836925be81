"""The service: input size, time limits, batches, its card; and which networks it opens."""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segdistill import api
from segdistill.config.deploy import ServeConfig
from segdistill.inference.prediction import predict_image
from segdistill.models.fused import FusedBlock, fuse_students
from segdistill.models.trained import LoadOptions, TrainedNetwork, load_network
from segdistill.predicting import open_predictor
from segdistill.serving.service import network_card, refuse_code

pytestmark = pytest.mark.integration


def test_a_run_is_segmented_as_by_predict(serve: Any, run: Path, encoded: Callable[..., bytes]) -> None:
    network = open_predictor(str(run), ServeConfig(), torch.device("cpu"))
    card, network = network_card(network), fuse_students(network)
    assert any(isinstance(module, FusedBlock) for module in network.modules())
    plain = load_network(str(run))
    assert (card.name, card.architecture) == (run.name, "dsunet")
    assert card.parameters == sum(p.numel() for p in plain.parameters())
    assert card.classes[1].colour == plain.labels.palette[1]
    assert 0 <= card.metrics["pixel_accuracy"] <= 1
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((65, 47))
    with serve(network, size=40) as running:
        # The run has nine classes, of which the server's fixture names three: compare the masks alone.
        response = running.post(encoded(picture))
    with Image.open(io.BytesIO(response.content)) as file:
        mask = np.asarray(file)
    assert (mask == predict_image(plain, picture, size=40).mask).mean() > 0.999  # fused: up to rounding


COLOURS = """
import torch

class Colours(torch.nn.Module):
    labels = ["background", "red", "green"]

    def forward(self, image):
        return torch.stack([0 * image[:, 0], image[:, 0], image[:, 1]], dim=1)
"""


def test_an_output_stride_is_the_one_of_predict(
    serve: Any, tmp_path: Path, encoded: Callable[..., bytes]
) -> None:
    (tmp_path / "net.py").write_text(COLOURS)
    spec = f"{tmp_path / 'net.py'}:Colours"
    network = open_predictor(spec, ServeConfig(output_stride=16), torch.device("cpu"))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8))
    picture = picture.resize((65, 47))
    with serve(network, size=40) as running:
        response = running.post(encoded(picture))
    with Image.open(io.BytesIO(response.content)) as file:
        mask = np.asarray(file)
    strided = load_network(spec, LoadOptions(output_stride=16))
    assert (mask == predict_image(strided, picture, size=40).mask).mean() > 0.999
    assert (mask == predict_image(load_network(spec), picture, size=40).mask).mean() < 0.999


def test_large_images_are_downscaled_for_the_network(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve() as running:
        response = running.post(encoded(Image.new("RGB", (2000, 500), (0, 255, 0))))
    with Image.open(io.BytesIO(response.content)) as mask:
        assert mask.size == (2000, 500)
        assert np.unique(np.asarray(mask)).tolist() == [2]
    assert running.network.batches == [(1, 3, 256, 1024)]


def test_concurrent_requests_share_a_batch(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve(max_batch=4) as running, ThreadPoolExecutor(8) as clients:
        running.network.gate.clear()
        first = clients.submit(running.post, encoded(Image.new("RGB", (8, 8))))
        running.wait_for_requests(1)
        running.wait_until(lambda: running.network.calls > 0)
        more = [clients.submit(running.post, encoded()) for _ in range(5)]
        running.wait_for_queue(5)
        running.network.gate.set()
        assert {response.result().status_code for response in [first, *more]} == {200}
        assert running.network.batches == [(1, 3, 8, 8), (4, 3, 32, 64), (1, 3, 32, 64)]
        lines = running.get("/metrics").text.splitlines()
    assert "segdistill_batch_size_count 3.0" in lines
    assert "segdistill_batch_size_sum 6.0" in lines
    assert 'segdistill_requests_total{path="/v1/segment",status="200"} 6.0' in lines
    assert "segdistill_queue_length 0.0" in lines


def test_slow_bodies_and_slow_networks_time_out(
    serve: Any, encoded: Callable[..., bytes], error_of: Any
) -> None:
    with serve(timeout_s=0.5) as running, ThreadPoolExecutor(2) as clients:
        with running.connect() as client:
            running.begin(client, b"--b")
            running.network.gate.clear()
            first = clients.submit(running.post, encoded())
            running.wait_until(lambda: running.network.calls > 0)
            second = clients.submit(running.post, encoded())
            assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
        for response in (first, second):
            assert "the mask was not computed within 0.5 s" in error_of(response.result(), 504)
        running.network.gate.set()
        assert running.post(encoded()).status_code == 200
        running.wait_for_requests(0)
    assert len(running.network.batches) == 2  # the second was cancelled before its turn


def test_a_failing_network_is_an_internal_error(
    serve: Any, encoded: Callable[..., bytes], error_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("secret detail")

    with serve(Failing()) as running:
        for _ in range(2):  # the second one is still run
            assert error_of(running.post(encoded()), 500).startswith("internal error")
        assert 'path="/v1/segment",status="500"} 2.0' in running.get("/metrics").text
    assert caplog.text.count("the network failed") == 2
    assert "secret detail" in caplog.text


def test_streams_are_opened_before_a_request_comes(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(TrainedNetwork, "open_streams", lambda network, streams: opened.append(streams))
    concurrent = property(lambda network: True, lambda network, value: None)
    monkeypatch.setattr(TrainedNetwork, "concurrent", concurrent, raising=False)
    with serve(streams=3) as running:
        assert opened == [3]
        assert running.network.calls == 0


def test_it_is_ready_while_its_network_runs(serve: Any) -> None:
    with serve() as running:
        assert running.service.ready
        running.service.batcher.close()
        assert not running.service.ready
        assert running.get("/readyz").status_code == 503


@pytest.mark.parametrize("spec", ["nets.py:make", "package.module:make", "./nets.py:make"])
def test_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(ValueError, match=f"{spec} is code, which a server does not run"):
        api.serve(spec, ServeConfig(device="cpu"))


def test_code_that_a_run_names_is_refused(tmp_path: Path, run: Path) -> None:
    card = json.loads((run / "model.json").read_text()) | {"spec": "nets.py:make"}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"nets\.py:make is code"):
        api.serve(tmp_path, ServeConfig(device="cpu"))


def test_what_is_no_code_is_not_refused(tmp_path: Path, run: Path) -> None:
    odd = tmp_path / "a:b.onnx"
    odd.touch()
    for spec in (str(run), str(odd), "dsunet", "smp:Unet/resnet18", "nowhere.onnx"):
        refuse_code(spec)
