"""`fastsedd serve` as a process: a text, a client that hangs up, a signal; and to whom it listens."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from serving import serving

pytest.importorskip("starlette", reason="an extra")
pytest.importorskip("uvicorn", reason="an extra")
pytest.importorskip("prometheus_client", reason="an extra")

import fastsedd
from fastsedd.cli import main
from fastsedd.server.running import is_loopback


def metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"{address}/metrics") as reply:
        found = re.search(rf"^{name} (\S+)$", reply.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def hang_up_in_mid_stream(port: int, body: dict) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + content)
        received = b""
        while b"diffusion" not in received:
            received += client.recv(65536)
    return received


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_server_from_its_start_to_its_end(write_checkpoint, make_config) -> None:
    folder = write_checkpoint(make_config())
    with serving("--model", str(folder), "--max-steps", "60000") as (server, address, said):
        assert folder.name in said[-1]
        body = json.dumps({"prompt": "ab", "seed": 7, "steps": 4, "echo": True}).encode()
        asked = urllib.request.Request(
            f"{address}/v1/completions", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(asked) as reply:
            text = json.load(reply)["choices"][0]["text"]
        assert text == fastsedd.load(folder).generate("ab", seed=7, steps=4).texts[0]
        hang_up_in_mid_stream(int(address.rpartition(":")[2]), {"steps": 60000, "n": 16, "stream": True})
        end = time.monotonic() + 60.0
        while metric(address, "fastsedd_open_requests") > 1.0:  # this one is open itself
            assert time.monotonic() < end
            time.sleep(0.05)
        assert metric(address, "fastsedd_steps_total") < 60000
        server.send_signal(signal.SIGTERM)
        _, rest = server.communicate(timeout=60)
    assert server.returncode == 0 and "Traceback" not in rest and "ended" in rest


def test_a_server_listens_to_others_only_with_a_key_or_on_request(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0"])
    assert result.exit_code == 2 and "--api-key-file" in result.stderr and "--allow-public" in result.stderr
    empty = tmp_path / "keys"
    empty.write_text("\n \n")
    result = CliRunner().invoke(main, ["serve", "--api-key-file", str(empty)])
    assert result.exit_code == 1 and "holds no key" in result.stderr


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.1", False), ("example.org", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
