"""Admission: a full server refuses, and evicts slow clients for others."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from segdistill.serving import admission
from segdistill.serving.admission import Admission, Ticket

PART = b"--b\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n"


@pytest.mark.unit
def test_the_slowest_client_is_the_one_with_the_fewest_bytes_per_second() -> None:
    async def tickets() -> None:
        limited = Admission(3)
        computing, fast, slow = (Ticket() for _ in range(3))
        limited.tickets |= {computing, fast, slow}
        with fast.waiting_for_client(), slow.waiting_for_client():
            assert limited.slowest() is None  # within their grace
            assert limited.full
            fast.waiting_since = slow.waiting_since = (fast.waiting_since or 0) - 1  # a second ago
            fast.transferred, slow.transferred = 2000, 1000
            rate = slow.rate(slow.waiting_since + 2)
            assert rate == pytest.approx(500)
            assert limited.slowest() is slow
            assert not limited.full
        assert computing.rate(1e9) is None  # it waits for the network, not for its client
        assert slow.client_s >= 1  # counted on when it waits again

    asyncio.run(tickets())


@pytest.mark.integration
def test_a_full_queue_says_when_to_come_back(
    serve: Any, encoded: Callable[..., bytes], error_of: Any
) -> None:
    with serve(queue=2) as running, ThreadPoolExecutor(2) as clients:
        running.network.gate.clear()
        admitted = [clients.submit(running.post, encoded()) for _ in range(2)]
        running.wait_for_requests(2)
        refused = running.post(encoded())
        assert "too many requests wait" in error_of(refused, 503)
        assert refused.headers["retry-after"] == "1"
        assert running.get("/readyz").status_code == 503
        assert running.get("/healthz").status_code == 200  # other paths are not limited
        running.network.gate.set()
        assert [response.result().status_code for response in admitted] == [200, 200]
        assert running.post(encoded()).status_code == 200


@pytest.mark.integration
def test_the_slowest_body_is_evicted(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve(queue=2) as running, running.connect() as slow, running.connect() as slower:
        for client, body in ((slow, PART + bytes(1000)), (slower, PART)):
            running.begin(client, body)
        running.wait_for_requests(2)
        running.wait_until(lambda: not running.service.admission.full)  # both are past their grace
        assert running.get("/readyz").status_code == 200
        assert running.post(encoded()).status_code == 200
        response = slower.recv(65536)
        assert response.startswith(b"HTTP/1.1 408 ")
        assert b"too slowly while others waited" in response
        assert 'path="/v1/segment",status="408"} 1.0' in running.get("/metrics").text
        running.wait_for_requests(1)


@pytest.mark.integration
def test_a_client_that_does_not_read_is_evicted(serve: Any, encoded: Callable[..., bytes]) -> None:
    noise = Image.effect_noise((1500, 1500), 200).convert("RGB")  # its overlay exceeds every buffer
    body = PART + encoded(noise, "JPEG") + b"\r\n--b--\r\n"
    with serve(queue=1) as running, running.connect(4096) as client:
        running.begin(client, body, length=len(body), form=b"overlay")
        assert client.recv(12) == b"HTTP/1.1 200"
        running.wait_until(lambda: not running.service.admission.full)
        assert len(running.service.admission) == 1
        assert running.post(encoded()).status_code == 200
        running.wait_until(lambda: not running.server.server_state.connections)


@pytest.mark.integration
def test_clients_that_leave_free_their_request(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve(queue=1) as running:
        with running.connect() as client:
            running.begin(client, b"--b")
            running.wait_for_requests(1)
        running.wait_for_requests(0)
        assert running.post(encoded()).status_code == 200
        assert 'status="499"} 1.0' in running.get("/metrics").text


@pytest.mark.integration
def test_memory_is_released_once_no_request_came_for_a_while(
    serve: Any, encoded: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    monkeypatch.setattr(admission, "IDLE_S", 0.2)
    monkeypatch.setattr(admission, "release_freed_memory", lambda: released.append(1))
    with serve() as running:
        for _ in range(3):
            assert running.post(encoded()).status_code == 200
            assert released == []
        running.wait_until(lambda: released != [])
    assert released == [1]
