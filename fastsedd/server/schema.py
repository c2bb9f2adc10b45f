"""The OpenAPI document, made from the types of bodies and replies."""

from __future__ import annotations

from typing import Any

import msgspec

from fastsedd.server.bodies import Chat, Completion, Evaluate, Fill
from fastsedd.server.errors import ErrorObject
from fastsedd.server.replies import ChatReply, CompletionReply, EvaluationReply, HealthReply, ModelReply, ModelsReply

_PATHS: dict[str, tuple[str, str, Any, Any]] = {
    "/health": ("get", "The server answers.", None, HealthReply),
    "/v1/models": ("get", "The model.", None, ModelsReply),
    "/v1/models/{name}": ("get", "The model, by its name.", None, ModelReply),
    "/v1/completions": ("post", "Texts that begin with a prompt.", Completion, CompletionReply),
    "/v1/chat/completions": ("post", "Answers in a conversation.", Chat, ChatReply),
    "/v1/fill": ("post", "Texts with gaps, filled.", Fill, CompletionReply),
    "/v1/evaluate": ("post", "A bound on a text's likelihood.", Evaluate, EvaluationReply),
}
_REFUSALS = {
    400: "The request is wrong; the message says what is allowed.", 401: "The key is missing or wrong.",
    404: "There is no such model.", 405: "There is no such method.", 408: "The body was too slow.",
    413: "The body is too long.", 415: "The body is not JSON.", 429: "Too many requests wait.",
    500: "The server has failed.", 503: "There is not enough memory.", 504: "The deadline has passed.",
}  # fmt: skip


def document(name: str) -> bytes:
    """OpenAPI 3.1, as JSON. name : of the model that is served"""
    types = [each for _, _, *both in _PATHS.values() for each in both if each is not None]
    schemas, components = msgspec.json.schema_components(
        [*types, ErrorObject], ref_template="#/components/schemas/{name}"
    )
    of_type = dict(zip([*types, ErrorObject], schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, (method, summary, body, reply) in _PATHS.items():
        operation: dict[str, Any] = {"summary": summary, "operationId": path.strip("/").replace("/", "_")}
        if "{name}" in path:
            parameter = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
            operation |= {"parameters": [parameter], "operationId": "v1_model"}
        if body is not None:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": of_type[body]}}}
        succeeded = {"application/json": {"schema": of_type[reply]}}
        if reply in (CompletionReply, ChatReply):
            succeeded["text/event-stream"] = {}  # events, which no JSON schema is of
        refused = {"application/json": {"schema": of_type[ErrorObject]}}
        answers: dict[str, Any] = {"200": {"description": "Done.", "content": succeeded}}
        answers |= {str(code): {"description": words, "content": refused} for code, words in _REFUSALS.items()}
        operation["responses"] = answers
        if path != "/health":
            operation["security"] = [{}, {"key": []}]
        paths[path] = {method: operation}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": f"fastsedd: {name}", "version": "1"},
            "paths": paths,
            "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        }
    )
