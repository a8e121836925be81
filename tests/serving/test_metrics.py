"""The counters: by path and status, without labels of the clients' making."""

import pytest
from prometheus_client import generate_latest

from segdistill.serving.metrics import ServerMetrics

pytestmark = pytest.mark.unit


def test_responses_are_counted_by_path_and_status() -> None:
    metrics = ServerMetrics()
    metrics.count("/v1/segment", 200, 0.3)
    metrics.count("/v1/segment", 200, 0.7)
    metrics.count("/healthz", 200, 0.1)
    lines = generate_latest(metrics.registry).decode().splitlines()
    assert 'segdistill_requests_total{path="/v1/segment",status="200"} 2.0' in lines
    assert 'segdistill_requests_total{path="/healthz",status="200"} 1.0' in lines
    assert 'segdistill_request_seconds_count{status="200"} 2.0' in lines  # of masks alone
    assert 'segdistill_request_seconds_sum{status="200"} 1.0' in lines


def test_paths_that_do_not_exist_share_one_label() -> None:
    metrics = ServerMetrics()
    for path in ("/etc/passwd", "/v1/segment/", ""):
        metrics.count(path, 404, 0)
    text = generate_latest(metrics.registry).decode()
    assert 'segdistill_requests_total{path="other",status="404"} 3.0' in text
    assert "passwd" not in text
