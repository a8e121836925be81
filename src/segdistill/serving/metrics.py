"""The server's counters, in Prometheus's terms."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from segdistill.serving.paths import PATHS, SEGMENT_PATH


class ServerMetrics:
    """What /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "segdistill_requests", "Responses by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "segdistill_request_seconds", "Seconds from a request for a mask to its response", ["status"],
            registry=self.registry, buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.batches = Histogram(
            "segdistill_batch_size", "Images that went through the network together",
            registry=self.registry, buckets=(1, 2, 4, 8, 16, 32),
        )  # fmt: skip
        self.working = Gauge(
            "segdistill_requests_working", "Requests that are admitted", registry=self.registry
        )
        self.queue = Gauge(
            "segdistill_queue_length", "Images that wait for the network", registry=self.registry
        )

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count one response; paths that do not exist count as `other`, or clients could make up labels."""
        label = path if path in PATHS else "other"
        self.requests.labels(label, str(status)).inc()
        if label == SEGMENT_PATH:
            self.seconds.labels(str(status)).observe(seconds)
