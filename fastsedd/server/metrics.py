"""Numbers for Prometheus, of one server."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: str = CONTENT_TYPE_LATEST


class Metrics:
    """Counters and gauges by their attribute; `text` is what is scraped."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("fastsedd_requests", "Answers, by path and status.", ["path", "status"], registry=own)
        self.seconds = Histogram(
            "fastsedd_request_seconds", "From request to the answer's end.", ["path"], registry=own
        )
        self.waiting = Gauge("fastsedd_waiting_requests", "Requests in the queue.", registry=own)
        self.running = Gauge("fastsedd_open_requests", "Requests that are not answered yet.", registry=own)
        self.batch = Histogram(
            "fastsedd_batch_texts", "Texts denoised together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=own
        )
        self.steps = Counter("fastsedd_steps", "Denoising steps of batches.", registry=own)
        self.texts = Counter("fastsedd_texts", "Texts written.", registry=own)
        self.tokens = Counter("fastsedd_tokens", "Tokens written.", registry=own)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return bytes(generate_latest(self._registry))
