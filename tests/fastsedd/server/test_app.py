"""The API: texts are the library's, streams add up to them, and everything else is an error object."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="an extra")
pytest.importorskip("prometheus_client", reason="an extra")
pytest.importorskip("httpx", reason="needed to ask")

from starlette.testclient import TestClient

import fastsedd
from fastsedd.server import app, guard
from fastsedd.server.limits import Limits

LIMITS = Limits(max_steps=50, max_samples=4, max_body=4096)


@pytest.fixture
def model(write_checkpoint, make_config) -> fastsedd.Model:
    return fastsedd.load(write_checkpoint(make_config()))


@pytest.fixture
def serve(model: fastsedd.Model) -> Iterator[Callable[..., TestClient]]:
    """serve(limits, keys, origins, model=...) -> a client of a new server."""
    clients = []

    def start(limits: Limits = LIMITS, keys: tuple[str, ...] = (), **options: Any) -> TestClient:
        client = TestClient(app.build(options.pop("model", model), "tiny", limits, keys, **options))
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def events(text: str) -> list[Any]:
    assert text.endswith("\n\n")
    lines = text[:-2].split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def test_completions_are_the_librarys_texts(serve, model) -> None:
    client = serve()
    body = {"model": "tiny", "prompt": "ab", "suffix": "d", "n": 3, "steps": 4, "seed": 2**64 - 1}
    reply = client.post("/v1/completions", json=body).json()
    texts = model.generate("ab", "d", num_samples=3, steps=4, seed=2**64 - 1).texts
    assert [choice["text"] for choice in reply["choices"]] == [text[2:-1] for text in texts]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"length"}
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 27, "total_tokens": 30}
    assert reply["object"] == "text_completion" and reply["model"] == "tiny" and reply["id"].startswith("cmpl-")
    echoed = client.post("/v1/completions", json=body | {"echo": True}).json()
    assert [choice["text"] for choice in echoed["choices"]] == texts


def test_a_reply_states_the_seed_that_gives_it_again(serve) -> None:
    client = serve()
    first = client.post("/v1/completions", json={"steps": 4}).json()
    again = client.post("/v1/completions", json={"steps": 4, "seed": first["seed"]}).json()
    assert first["choices"] == again["choices"]


def test_max_tokens_and_stop(serve, model) -> None:
    client = serve()
    body = {"prompt": "ab", "max_tokens": 5, "steps": 4, "seed": 1}
    reply = client.post("/v1/completions", json=body).json()
    text = model.generate("ab", length=7, steps=4, seed=1).texts[0][2:]
    assert reply["choices"][0]["text"] == text and reply["usage"]["completion_tokens"] == 5
    stopped = client.post("/v1/completions", json=body | {"stop": [text[3], "zzz"]}).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (text[: text.find(text[3])], "stop")


def test_gaps_are_filled(serve, model) -> None:
    client = serve()
    reply = client.post("/v1/fill", json={"template": "ab{{4}}c{{}}d", "steps": 4, "seed": 1}).json()
    assert reply["choices"][0]["text"] == model.generate(template="ab{{4}}c{{}}d", steps=4, seed=1).texts[0]
    reply = client.post("/v1/fill", json={"fixed": {"3": 2}, "length": 6, "steps": 4, "seed": 1}).json()
    assert reply["choices"][0]["text"] == model.generate(fixed={3: 2}, length=6, steps=4, seed=1).texts[0]


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_the_states_of_a_stream_add_up_to_its_text(serve, write_checkpoint, make_config, graph: str) -> None:
    model = fastsedd.load(write_checkpoint(make_config(graph=graph)))
    client = serve(model=model)
    body = {"prompt": "ab", "n": 2, "steps": 6, "seed": 3, "stream": True, "stream_options": {"include_usage": True}}
    response = client.post("/v1/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert chunks.pop()["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}
    shown = [[""] * 12, [""] * 12]
    texts, steps, masked = ["", ""], ([], []), ([], [])
    for chunk in chunks:
        (choice,) = chunk["choices"]
        at = choice["index"]
        texts[at] += choice["text"]
        if "diffusion" in chunk:
            state = chunk["diffusion"]
            assert (state["index"], state["steps"], state["length"]) == (at, 7, 12) and choice["text"] == ""
            steps[at].append(state["step"])
            masked[at].append(state["masked"])
            for position, text in state["changed"]:
                shown[at][position] = text
    expected = model.generate("ab", num_samples=2, steps=6, seed=3).texts
    assert ["ab" + text for text in texts] == ["".join(each) for each in shown] == expected
    assert steps == ([*range(8)], [*range(8)])
    assert all(each == sorted(each, reverse=True) and (each[0], each[-1]) == (10, 0) for each in masked)


def test_a_stream_tells_confidence_where_it_is_asked_for(serve, model) -> None:
    client = serve()
    body = {"prompt": "ab", "steps": 6, "seed": 3, "stream": True}
    plain = events(client.post("/v1/completions", json=body).text)[:-1]
    assert all("confidence" not in chunk.get("diffusion", {}) for chunk in plain)
    asked = body | {"stream_options": {"include_confidence": True}}
    chunks = events(client.post("/v1/completions", json=asked).text)[:-1]
    found = [chunk["diffusion"] for chunk in chunks if "diffusion" in chunk]
    states = [{key: value for key, value in state.items() if key != "confidence"} for state in found]
    assert states == [chunk["diffusion"] for chunk in plain if "diffusion" in chunk]
    assert found[0]["confidence"] == [None, None]  # the prompt
    told = [value for state in found[1:] for value in state["confidence"]]
    assert len(told) == 10 and all(0.0 < value < 1.0 for value in told)


def test_many_clients_at_once_get_their_own_texts(serve, model) -> None:
    client = serve()
    found: dict[int, str] = {}

    def ask(seed: int) -> None:
        reply = client.post(
            "/v1/completions", json={"prompt": "a" * (seed % 3), "steps": 20, "seed": seed, "echo": True}
        )
        found[seed] = reply.json()["choices"][0]["text"]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {seed: model.generate("a" * (seed % 3), steps=20, seed=seed).texts[0] for seed in range(12)}
    assert 'fastsedd_requests_total{path="/v1/completions",status="200"} 12.0' in client.get("/metrics").text


def test_evaluations_are_the_librarys(serve, model) -> None:
    reply = serve().post("/v1/evaluate", json={"text": "abcdabcdabcd" * 2, "times": 4, "seed": 1}).json()
    expected = model.evaluate("abcdabcdabcd" * 2, 4, seed=1)
    assert (reply["nats"], reply["nats_error"], reply["tokens"]) == (expected.nats, expected.nats_error, 24)


def test_a_text_of_a_model_of_any_length_is_bounded(serve, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="an extra")
    import masked_models

    model = fastsedd.load(masked_models.write(tmp_path / "model", "bd3lm"))
    client = serve(model=model)
    text = model.generate("abc", seed=3).texts[0]
    reply = client.post("/v1/completions", json={"prompt": "abc", "seed": 3}).json()
    assert "abc" + reply["choices"][0]["text"] == text
    reply = client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 40})
    assert (reply.status_code, reply.json()["error"]["message"]) == (
        400, "the text has 44 tokens, allowed of a server: 32",
    )  # fmt: skip


def test_conversations(serve, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="an extra")
    pytest.importorskip("jinja2", reason="an extra")
    import masked_models

    model = fastsedd.load(masked_models.write(tmp_path / "model", "sdar"))
    client = serve(model=model)
    messages = [{"role": "user", "content": "Hello"}]
    body = {"messages": messages, "max_tokens": 12, "seed": 3}
    expected = model.chat(messages, max_new_tokens=12, seed=3).texts[0]
    reply = client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": expected}
    assert reply["object"] == "chat.completion" and client.get("/v1/models").json()["data"][0]["chat"]
    chunks = events(client.post("/v1/chat/completions", json=body | {"stream": True}).text)[:-1]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == expected
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    text = model.generate("abc", max_new_tokens=9, seed=3).texts[0]
    reply = client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 9, "seed": 3}).json()
    assert "abc" + reply["choices"][0]["text"] == text


BAD = {
    "unknown field": ("completions", {"promt": "a"}, "promt", "unknown field `promt`"),
    "wrong type": ("completions", {"prompt": 3}, "prompt", "Expected `str | null|str`|Expected `str`"),
    "a list": ("completions", {"prompt": ["a", "b"]}, "prompt", "Expected `str`"),
    "not an object": ("completions", [1], None, "Expected `object`"),
    "negative": ("completions", {"steps": -1}, "steps", ">= 1"),
    "huge": ("completions", {"steps": 10**30}, "steps", "out of range|Expected `int"),
    "many steps": ("completions", {"steps": 51}, "steps", "steps is 51, allowed: 1 to 50"),
    "the model's many steps": ("completions", {}, "steps", "steps is more than 50"),
    "many texts": ("completions", {"n": 5, "steps": 1}, "n", "n is 5, allowed: 1 to 4"),
    "a seed too large": ("completions", {"seed": 2**64, "steps": 1}, "seed", "seed|range"),
    "a character": ("completions", {"prompt": "é", "steps": 1}, "prompt", "prompt: character 'é'"),
    "a character, counted": (
        "completions",
        {"suffix": "é", "max_tokens": 3, "steps": 1},
        "suffix",
        "suffix: character",
    ),
    "too long": ("completions", {"prompt": "a" * 13, "steps": 1}, "prompt", "prompt and suffix have 13 and 0 tokens"),
    "too many": ("completions", {"max_tokens": 13, "steps": 1}, "max_tokens", "max_tokens is 13.*12 together"),
    "two lengths": ("completions", {"max_tokens": 3, "length": 5, "steps": 1}, "max_tokens", "one of them"),
    "the other kind's": ("completions", {"order": "p2", "steps": 1}, "order", "order is 'p2', allowed for"),
    "a penalty": ("completions", {"presence_penalty": 0.5}, "presence_penalty", "<= 0"),
    "best_of": ("completions", {"best_of": 3, "steps": 1}, "best_of", "best_of is 3"),
    "a grid": ("completions", {"grid": "none"}, "grid", "Invalid enum value"),
    "two gaps": ("fill", {"template": "{{}}{{}}", "steps": 1}, "template", "template has 2 gaps"),
    "a position": ("fill", {"fixed": {"12": 1}, "steps": 1}, "fixed", "fixed has position 12"),
    "no conversations": ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "messages", "no conv"),
    "no messages": ("chat/completions", {"messages": []}, "messages", "length >= 1"),
    "no text": ("evaluate", {"text": ""}, "text", "length >= 1"),
    "text of another alphabet": ("evaluate", {"text": "xyz"}, "text", "text: character 'x'"),
    "many times": ("evaluate", {"text": "a", "times": 10**6}, "times", "<= 256"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_what_is_allowed(serve, case: str) -> None:
    path, body, param, words = BAD[case]
    reply = serve().post(f"/v1/{path}", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert re.search(words, error["message"]) and "\n" not in error["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"), (b"{", "not JSON"), (b'{"prompt": "\xff"}', "not JSON"), (b'{"steps": NaN}', "not JSON"),
        (b"[" * 4000, "nested|not JSON|Expected"), (b'{"prompt": "\\ud800"}', "not JSON"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_body(serve, content: bytes, words: str) -> None:
    reply = serve().post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400 and re.search(words, reply.json()["error"]["message"])


def test_bodies_are_bounded(serve, monkeypatch) -> None:
    client = serve()
    json_type = {"content-type": "application/json"}
    assert client.post("/v1/completions", json={"prompt": "a" * 5000}).status_code == 413
    parts = (b"a" * 100 for _ in range(100))
    assert client.post("/v1/completions", content=parts, headers=json_type).status_code == 413
    monkeypatch.setattr(guard, "_DISCARDED", 1000)
    parts = (b"a" * 100 for _ in range(100))
    assert client.post("/v1/completions", content=parts, headers=json_type).status_code == 413
    assert client.post("/v1/completions", json={"prompt": "a" * 6000}).json()["error"]["code"] == "request_too_large"
    refused = client.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert refused.status_code == 415 and "application/json" in refused.json()["error"]["message"]
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0.0)
    assert client.post("/v1/completions", content=b"{}", headers=json_type).status_code == 408


def test_paths_methods_and_models_that_there_are_not(serve) -> None:
    client = serve()
    for reply, status in (
        (client.get("/nowhere"), 404), (client.get("/v1/completions"), 405), (client.get("/v1/models/other"), 404),
        (client.post("/v1/completions", json={"model": "other"}), 404),
    ):  # fmt: skip
        assert reply.status_code == status and set(reply.json()) == {"error"}
    assert reply.json()["error"]["code"] == "model_not_found"
    assert client.get("/v1/models/tiny").json()["id"] == "tiny"


def test_keys(serve) -> None:
    client = serve(keys=("secret", "other"))
    assert client.get("/health").json() == {"status": "ok"} and client.get("/").status_code == 200
    for key, status in (("Bearer secret", 200), ("bearer other", 200), ("Bearer secre", 401), ("Basic secret", 401),
                        ("Bearer ", 401), ("", 401), ("Bearer sécret", 401)):  # fmt: skip
        reply = client.get("/v1/models", headers={"authorization": key.encode()})
        assert reply.status_code == status
    assert reply.json()["error"]["code"] == "invalid_api_key" and "secret" not in reply.text
    assert client.get("/metrics").status_code == 401


def test_a_deadline_that_passes(serve) -> None:
    client = serve(Limits(timeout=1e-6))
    reply = client.post("/v1/completions", json={"steps": 2})
    assert reply.status_code == 504 and reply.json()["error"]["code"] == "timeout"
    assert client.post("/v1/completions", json={"steps": 2, "stream": True}).status_code == 504


def test_a_failure_of_ours_is_an_object_without_a_traceback(serve, model, monkeypatch) -> None:
    client = serve()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(type(model), "evaluate", fail)
    reply = client.post("/v1/evaluate", json={"text": "abc"})
    assert reply.status_code == 500 and reply.json()["error"]["code"] == "internal_error"
    assert "secret" not in reply.text and "Traceback" not in reply.text
    monkeypatch.setattr(type(model), "writing", fail)
    assert client.post("/v1/completions", json={"steps": 2}).status_code == 500
    assert client.get("/health").status_code == 200


def test_other_origins_may_ask_where_they_are_named(serve) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in serve().get("/health", headers=asked).headers
    client = serve(origins=("https://a.example",))
    assert client.get("/health", headers=asked).headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in client.get("/health", headers={"origin": "https://b.example"}).headers


def test_the_document_describes_every_path(serve) -> None:
    client = serve()
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        "/health", "/v1/models", "/v1/models/{name}", "/v1/completions", "/v1/chat/completions", "/v1/fill",
        "/v1/evaluate",
    }  # fmt: skip
    fields = document["components"]["schemas"]["Completion"]
    assert fields["additionalProperties"] is False and "steps" in fields["properties"]


def test_the_page_needs_nothing_from_elsewhere(serve) -> None:
    reply = serve().get("/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("sha256-") == 2
    assert "http://" not in reply.text.replace("http://www.w3.org/", "") and "https://" not in reply.text
    assert " style=" not in reply.text and " onclick=" not in reply.text


def test_openais_own_client(serve, model) -> None:
    openai = pytest.importorskip("openai", reason="not a dependency")
    http = serve(keys=("k",))
    client = openai.OpenAI(api_key="k", base_url="http://testserver/v1", http_client=http, max_retries=0)
    text = model.generate("ab", steps=4, seed=7).texts[0][2:]
    options = {"model": "tiny", "prompt": "ab", "seed": 7, "extra_body": {"steps": 4}}
    assert client.completions.create(**options).choices[0].text == text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**options, stream=True)) == text
    assert [each.id for each in client.models.list()] == ["tiny"]
    with pytest.raises(openai.BadRequestError, match="allowed: 1 to 4"):
        client.completions.create(**options, n=9)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(**options | {"model": "gpt"})
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(api_key="x", base_url="http://testserver/v1", http_client=http).models.list()
