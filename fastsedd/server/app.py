"""The application: which path does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from anyio import to_thread
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.routing import Route, Router

from fastsedd.engine import Model
from fastsedd.results import Evaluation
from fastsedd.server import errors, schema
from fastsedd.server.answer import Answer
from fastsedd.server.bodies import Chat, Completion, Evaluate, Fill, Sampling
from fastsedd.server.errors import Refusal
from fastsedd.server.events import send_events
from fastsedd.server.guard import Application, Guard, Receive, Scope, Send, read, respond
from fastsedd.server.limits import Limits
from fastsedd.server.metrics import CONTENT_TYPE, Metrics
from fastsedd.server.page import Page
from fastsedd.server.replies import EvaluationReply, HealthReply, ModelReply, ModelsReply
from fastsedd.server.scheduler import Call, Job, Scheduler
from fastsedd.server.texts import Asked, pieces, returned, whole

_KINDS: dict[str, type[Sampling]] = {
    "/v1/completions": Completion,
    "/v1/chat/completions": Chat,
    "/v1/fill": Fill,
}


@dataclass(frozen=True)
class Reply:
    """An answer that is whole, as an ASGI application."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, self.status, self.body, self.headers, self.content_type)


@dataclass(frozen=True)
class Service:
    """A model that is served. name : in the API"""

    model: Model
    name: str
    limits: Limits
    metrics: Metrics
    scheduler: Scheduler

    async def write(self, request: HttpRequest, kind: type[Sampling]) -> Application:
        """Texts: whole, or as a stream of events."""
        body = await read(request, kind, self.limits.max_body)
        asked = await self._asked(body, kind)
        answer = Answer(self.limits.timeout)
        wanted = list(asked.request.wanted)
        stepwise, options = bool(body.stream), body.stream_options
        confident = stepwise and options is not None and options.include_confidence
        job = Job(asked.writing, asked.request.seed, wanted, answer, stepwise, confident)
        self.scheduler.submit(job)
        if body.stream:
            return partial(send_events, pieces(asked, answer), answer, partial(self.scheduler.discard, job))
        return Reply(msgspec.json.encode(await self._unless_gone(request, whole(asked, answer), answer, job)))

    async def _asked(self, body: Sampling, kind: type[Sampling]) -> Asked:
        self._check_name(body.model)

        def prepare() -> Asked:
            made = body.request(self.model, self.limits)
            if made.generation(self.model.config.generation).steps > self.limits.max_steps:
                raise errors.invalid(f"steps is more than {self.limits.max_steps}, allowed: 1 to that")
            writing, most = self.model.writing(made), self.model.config.length
            if len(writing.given) > most:
                raise errors.invalid(f"the text has {len(writing.given)} tokens, allowed of a server: {most}")
            return Asked(body, made, writing, self.model, self.name)

        names = {"num_samples": "n"}
        if kind is not Fill:
            names |= {"prefix": "prompt", "max_new_tokens": "max_tokens"}
        try:
            asked: Asked = await to_thread.run_sync(prepare)
            return asked
        except Refusal:
            raise
        except ValueError as error:
            raise errors.invalid(str(error), names) from None

    async def evaluate(self, request: HttpRequest) -> Application:
        """A bound on a text's likelihood."""
        body = await read(request, Evaluate, self.limits.max_body)
        self._check_name(body.model)
        answer = Answer(self.limits.timeout)

        def run(check: Callable[[], None]) -> Evaluation:
            return self.model.evaluate(body.text, body.times, seed=body.seed, progress=lambda done, total: check())

        call = Call(run, answer)
        self.scheduler.submit(call)
        found: Evaluation = await self._unless_gone(request, returned(answer), answer, call)
        names = set(EvaluationReply.__struct_fields__) - {"object", "model", "perplexity"}
        fields = {name: getattr(found, name) for name in names}
        perplexity = found.perplexity if found.perplexity < float("inf") else None
        return Reply(msgspec.json.encode(EvaluationReply("evaluation", self.name, perplexity=perplexity, **fields)))

    async def _unless_gone(self, request: HttpRequest, awaited: Any, answer: Answer, task: Job | Call) -> Any:
        """A result, unless its client goes away, or the deadline passes: then nobody works on it any longer."""
        watching = asyncio.ensure_future(answer.watch(request.receive))
        try:
            return await awaited
        finally:
            watching.cancel()
            self.scheduler.discard(task)

    def _check_name(self, name: str | None) -> None:
        if name not in (None, self.name):
            raise errors.no_such_model(str(name)[:200], self.name)

    async def models(self, request: HttpRequest) -> Application:
        """The model, and what it is."""
        config = self.model.config
        own = ModelReply(
            self.name, "model", 0, "fastsedd", config.architecture, config.length, self.model.parameters,
            config.generation.steps, config.generation.temperature, self.model.chats, config.backbone is not None,
        )  # fmt: skip
        name = request.path_params.get("name")
        if name not in (None, self.name):
            raise errors.no_such_model(name[:200], self.name)
        return Reply(msgspec.json.encode(ModelsReply("list", [own]) if name is None else own))

    async def health(self, request: HttpRequest) -> Application:
        return Reply(msgspec.json.encode(HealthReply("ok")))

    async def measured(self, request: HttpRequest) -> Application:
        return Reply(self.metrics.text(), content_type=CONTENT_TYPE)


def build(
    model: Model, name: str, limits: Limits, keys: tuple[str, ...] = (), origins: tuple[str, ...] = ()
) -> Application:
    """The ASGI application of a model.

    name : of the model in the API; keys : of which each request must have one; origins : of pages that may call it
    """
    metrics = Metrics()
    service = Service(model, name, limits, metrics, Scheduler(limits.max_queue, limits.max_batch, metrics))
    document = Reply(schema.document(name))
    page = Page.read()

    async def root(request: HttpRequest) -> Application:
        return Reply(page.html, headers=page.headers, content_type="text/html; charset=utf-8")

    async def described(request: HttpRequest) -> Application:
        return document

    @asynccontextmanager
    async def running(app: Any) -> AsyncIterator[None]:
        service.scheduler.start()
        try:
            yield
        finally:
            await to_thread.run_sync(service.scheduler.close)

    gets = {
        "/": root, "/health": service.health, "/metrics": service.measured, "/openapi.json": described,
        "/v1/models": service.models, "/v1/models/{name:path}": service.models,
    }  # fmt: skip
    posts: dict[str, Any] = {path: partial(service.write, kind=kind) for path, kind in _KINDS.items()}
    posts["/v1/evaluate"] = service.evaluate
    routes = [Route(path, _Endpoint(function, ("GET", "HEAD"))) for path, function in gets.items()]
    routes += [Route(path, _Endpoint(function, ("POST",))) for path, function in posts.items()]
    router = Router(routes, default=_nowhere, redirect_slashes=False, lifespan=running)
    guarded: Application = Guard(router, keys, metrics, frozenset(gets) | frozenset(posts))
    if origins:
        guarded = CORSMiddleware(guarded, list(origins), ["GET", "POST"], ["*"])
    return guarded


@dataclass(frozen=True)
class _Endpoint:
    """An endpoint as an ASGI application. It is no function, which Starlette would wrap."""

    function: Callable[[HttpRequest], Awaitable[Application]]
    methods: tuple[str, ...]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in self.methods:
            words = f"{scope['method']} is not allowed here, allowed: {self.methods[0]}"
            raise Refusal(405, words, headers={"Allow": ", ".join(self.methods)})
        answer = await self.function(HttpRequest(scope, receive))
        await answer(scope, receive, send)


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        raise Refusal(404, f"no such path: {scope['path'][:200]}")
