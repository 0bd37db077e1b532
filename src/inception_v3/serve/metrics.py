"""Counters of a server: for Prometheus, and the statistics of each model as Triton reports them."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MODEL = ("model", "version")
DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit")


class Metrics:
    """The metrics of one server. `queues` returns the number of images in the queue of each (model, version)."""

    def __init__(self, queues: Callable[[], Iterable[tuple[tuple[str, str], int]]]) -> None:
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "inception_v3", "registry": self._registry}
        self.requests = Counter("requests", "Requests, by operation and status.", ("operation", "status"), **options)
        self.request_seconds = Histogram(
            "request_seconds", "Time from the header of a request to its response.", ("operation",), buckets=SECONDS,
            **options,
        )  # fmt: skip
        self.in_flight = Gauge("requests_in_flight", "Requests that have no response yet.", **options)
        self.images = Counter("images", "Images that were computed.", MODEL, **options)
        self.failures = Counter("engine_failures", "Requests that failed in the engine.", MODEL, **options)
        self.batch_size = Histogram("batch_size", "Images in a batch.", MODEL, buckets=IMAGES, **options)
        self.queue_seconds = Histogram(
            "queue_seconds", "Time that a request's images waited for the engine.", MODEL, buckets=SECONDS, **options
        )
        self.prepare_seconds = Histogram(
            "prepare_seconds", "Time in which the images of a batch were decoded.", MODEL, buckets=SECONDS, **options
        )
        self.engine_seconds = Histogram(
            "engine_seconds", "Time of a batch in the engine.", MODEL, buckets=SECONDS, **options
        )
        self._registry.register(_Queues(queues))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Queues(Collector):
    """The lengths of the queues, read when the metrics are."""

    def __init__(self, queues: Callable[[], Iterable[tuple[tuple[str, str], int]]]) -> None:
        self._queues = queues

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily("inception_v3_queue_images", "Images that wait for the engine.", labels=MODEL)
        for labels, images in self._queues():
            family.add_metric(labels, images)
        yield family


@dataclass
class BatchTotals:
    """The batches of one size: their number, and the nanoseconds for decoding and in the engine."""

    count: int = 0
    prepare_ns: int = 0
    engine_ns: int = 0


class Statistics:
    """The figures of one model for Triton's statistics extension, since the server started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._durations = {name: [0, 0] for name in DURATIONS}  # count and nanoseconds
        self._batches: dict[int, BatchTotals] = defaultdict(BatchTotals)  # by size
        self._images = self._last = 0

    def add_request(self, seconds: float, succeeded: bool) -> None:
        with self._lock:
            self._add("success" if succeeded else "fail", seconds)
            self._last = int(time.time() * 1000)

    def add_output(self, seconds: float) -> None:
        """The time for writing the response to a request."""
        with self._lock:
            self._add("compute_output", seconds)

    def add_batch(self, images: int, prepare_seconds: float, engine_seconds: float, waits: Iterable[float]) -> None:
        with self._lock:
            for wait in waits:
                self._add("queue", wait)
                self._add("compute_input", prepare_seconds)
                self._add("compute_infer", engine_seconds)
            batch = self._batches[images]
            batch.count += 1
            batch.prepare_ns += int(prepare_seconds * 1e9)
            batch.engine_ns += int(engine_seconds * 1e9)
            self._images += images

    def _add(self, name: str, seconds: float) -> None:
        self._durations[name][0] += 1
        self._durations[name][1] += int(seconds * 1e9)

    @property
    def seconds_per_image(self) -> float:
        """The mean time for an image, decoding included; 0 before the first batch."""
        with self._lock:
            total = sum(batch.prepare_ns + batch.engine_ns for batch in self._batches.values())
            return total / 1e9 / self._images if self._images else 0.0

    def totals(self) -> dict[str, float]:
        """The images and batches that were computed, and the time in the engine."""
        with self._lock:
            batches = [*self._batches.values()]
            return {"images": self._images, "batches": sum(batch.count for batch in batches),
                    "engine_seconds": sum(batch.engine_ns for batch in batches) / 1e9}  # fmt: skip

    def as_dict(self, name: str, version: str) -> dict[str, Any]:
        """The model_stat object."""
        with self._lock:
            return {
                "name": name,
                "version": version,
                "last_inference": self._last,
                "inference_count": self._images,
                "execution_count": sum(batch.count for batch in self._batches.values()),
                "inference_stats": {key: {"count": n, "ns": ns} for key, (n, ns) in self._durations.items()},
                "batch_stats": [
                    {"batch_size": size, "compute_input": {"count": batch.count, "ns": batch.prepare_ns},
                     "compute_infer": {"count": batch.count, "ns": batch.engine_ns},
                     "compute_output": {"count": 0, "ns": 0}}
                    for size, batch in sorted(self._batches.items())
                ],
            }  # fmt: skip
