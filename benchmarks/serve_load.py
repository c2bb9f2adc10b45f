"""`fastsedd serve` under load, beside the library in turns: texts per second, latency, memory, clients that hang up.

    python benchmarks/serve_load.py                          64 clients for 5 minutes, then 1,000 that hang up
    python benchmarks/serve_load.py --clients 8 --seconds 30 --hang-ups 50

It starts a server of the shipped model on this machine, and ends it. Load comes in slices, between which the clients
are still and the library writes texts by itself: both rates are then of the same minutes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import fastsedd

REST = 2.0  # seconds after which a server that has nothing to do holds no more memory than it needs


@dataclass
class Load:
    """Requests of all clients. seconds : that each answer took, waiting for a place in the queue included"""

    port: int
    steps: int
    timeout: float
    going: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    open: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, number: int) -> None:
        """Ask for one text after another while the load goes."""
        seeds = random.Random(number)
        while self.going.wait() and not self.over:
            with self.lock:
                self.open += 1
            started = time.perf_counter()
            body = json.dumps({"prompt": "ROMEO:", "steps": self.steps, "seed": seeds.getrandbits(63)})
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            connection.close()
            with self.lock:
                self.open -= 1
                self.statuses[response.status] += 1
                if response.status == 200:
                    self.seconds.append(time.perf_counter() - started)
                    assert json.loads(text)["usage"]["total_tokens"] > 0
            if response.status == 429:
                time.sleep(float(response.headers["Retry-After"]))

    def slice(self, seconds: float) -> tuple[int, float]:
        """Let the clients ask for so long; texts answered, and the seconds to the last of these answers."""
        before, started = len(self.seconds), time.perf_counter()
        self.going.set()
        time.sleep(seconds)
        self.going.clear()
        while self.open:
            time.sleep(0.01)
        return len(self.seconds) - before, time.perf_counter() - started


def main() -> None:
    arguments = _arguments()
    model = fastsedd.load()
    steps = arguments.steps or model.config.generation.steps
    command = [sys.executable, "-m", "fastsedd", "serve", "--port", "0", "--max-queue", str(arguments.max_queue)]
    command += ["--timeout", str(arguments.timeout)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = _port(server)
            load = Load(port, steps, arguments.timeout + 60.0)
            threads = [threading.Thread(target=load.client, args=(i,), daemon=True) for i in range(arguments.clients)]
            for thread in threads:
                thread.start()
            measure(load, model, server.pid, arguments.seconds, arguments.slices)
            load.over = True
            load.going.set()
            hang_up(port, server.pid, arguments.hang_ups)
        finally:
            server.terminate()
        assert server.wait(60) == 0, "the server has not ended well"


def measure(load: Load, model: fastsedd.Model, pid: int, seconds: float, slices: int) -> None:
    """Load and the library in turns."""
    load.slice(seconds / slices)  # memory and caches come to rest
    _write(model, load.steps, 8, 0)
    load.seconds.clear()
    load.statuses.clear()
    time.sleep(REST)
    memory, served, alone = [_memory(pid)], [], []
    for i in range(slices):
        texts, taken = load.slice(seconds / slices)
        served.append(texts / taken)
        time.sleep(REST)
        memory.append(_memory(pid))
        started = time.perf_counter()
        count = 16 * max(2, texts // 48)
        _write(model, load.steps, count, i)
        alone.append(count / (time.perf_counter() - started))
        print(f"slice {i}: served {served[-1]:.2f}, alone {alone[-1]:.2f} texts/s, {memory[-1]:.1f} MiB", flush=True)
    cuts = statistics.quantiles(load.seconds, n=100)
    print(
        f"answers by status: {dict(load.statuses)}; latency p50 {cuts[49]:.2f}, p95 {cuts[94]:.2f}, "
        f"p99 {cuts[98]:.2f} s"
    )
    ratios = sorted(each / other for each, other in zip(served, alone, strict=True))
    print(f"texts/s served {statistics.median(served):.2f}, alone {statistics.median(alone):.2f}, median ratio "
          f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")  # fmt: skip
    print(f"memory {memory[0]:.1f} MiB before, {memory[-1]:.1f} after, {max(memory):.1f} at most "
          f"({100 * (max(memory) / memory[0] - 1):+.1f} %)")  # fmt: skip
    assert set(load.statuses) <= {200, 429}


def hang_up(port: int, pid: int, clients: int) -> None:
    """Streams that are left after their first event, 16 at a time; then nothing of them is left in the server."""
    before = _files(pid), _threads(pid), _memory(pid)
    for _ in range(0, clients, 16):
        some = [threading.Thread(target=_leave, args=(port,)) for _ in range(16)]
        for each in some:
            each.start()
        for each in some:
            each.join()
    end = time.monotonic() + 30.0
    while (left := (_metric(port, "fastsedd_open_requests") - 1, _metric(port, "fastsedd_waiting_requests"))) != (0, 0):
        assert time.monotonic() < end, f"open and waiting: {left}"
        time.sleep(0.1)
    time.sleep(5.0)  # a step that has begun is finished
    steps = _metric(port, "fastsedd_steps_total")
    time.sleep(2.0)
    assert _metric(port, "fastsedd_steps_total") == steps, "somebody is still served"
    print(f"{clients} clients have hung up: open files {before[0]} before, {_files(pid)} after, threads {before[1]} "
          f"and {_threads(pid)}, memory {before[2]:.1f} and {_memory(pid):.1f} MiB")  # fmt: skip


def _leave(port: int) -> None:
    body = json.dumps({"steps": 1000, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        received = b""
        while b"diffusion" not in received:
            part = client.recv(65536)
            assert part, received
            received += part


def _write(model: fastsedd.Model, steps: int, count: int, seed: int) -> None:
    for _ in model.stream("ROMEO:", num_samples=count, steps=steps, seed=seed):
        pass


def _port(server: subprocess.Popen[str]) -> int:
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise SystemExit("the server has not started")


def _metric(port: int, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    found = re.search(rf"^{name} (\S+)$", connection.getresponse().read().decode(), re.MULTILINE)
    connection.close()
    assert found is not None
    return float(found[1])


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _memory(pid: int) -> float:
    """Resident memory, in MiB."""
    return _status(pid, "VmRSS") / 1024


def _threads(pid: int) -> int:
    return _status(pid, "Threads")


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0, help="of load, all slices together")
    parser.add_argument("--steps", type=int, help="of each text; the model's own if not given")
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=120.0, help="the server's")
    parser.add_argument("--max-queue", type=int, default=64)
    parser.add_argument("--hang-ups", type=int, default=1000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
