"""The scheduler: texts of several requests at once are those alone, places become free, the queue has an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="an extra")
pytest.importorskip("prometheus_client", reason="an extra")

import fastsedd
from fastsedd.diffusion.sampler import StepRecord
from fastsedd.request import Request
from fastsedd.server.errors import Refusal
from fastsedd.server.metrics import Metrics
from fastsedd.server.scheduler import Call, Failure, Item, Job, Returned, Scheduler, State, Written


@dataclass
class Kept:
    """A receiver that keeps everything; leaves_at : the step after which it wants no more."""

    leaves_at: int | None = None
    abandoned: bool = False
    items: list[Item] = field(default_factory=list)

    def put(self, item: Item) -> None:
        self.items.append(item)
        if isinstance(item, State) and item.step == self.leaves_at:
            self.abandoned = True

    @property
    def texts(self) -> list[str]:
        return [item.text for item in self.items if isinstance(item, Written)]

    @property
    def steps(self) -> list[int]:
        return [item.step for item in self.items if isinstance(item, State)]


@dataclass
class Watched:
    """A sampler, and how many texts it had at each step."""

    inner: Any
    sizes: list[int]

    def run(self, network: Any, batch: Any, after: StepRecord | None = None) -> Iterator[StepRecord]:
        for record in self.inner.run(network, batch, after):
            self.sizes.append(len(batch))
            yield record


@pytest.fixture
def model(write_checkpoint, make_config) -> fastsedd.Model:
    return fastsedd.load(write_checkpoint(make_config()))


@pytest.fixture
def sizes(model: fastsedd.Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    writing = type(model).writing

    def watched(self: Any, request: Request) -> Any:
        made = writing(self, request)
        object.__setattr__(made, "sampler", Watched(made.sampler, found))
        return made

    monkeypatch.setattr(type(model), "writing", watched)
    return found


def job(model: fastsedd.Model, leaves_at: int | None = None, **options: Any) -> Job:
    request = Request.of(steps=5, **options)
    return Job(model.writing(request), request.seed, list(request.wanted), Kept(leaves_at), stepwise=True)


def finish(*tasks: Job | Call, max_batch: int = 16) -> None:
    scheduler = Scheduler(64, max_batch, Metrics())
    for task in tasks:
        scheduler.submit(task)
    scheduler.start()
    scheduler.close()


def test_requests_of_one_shape_are_written_together_as_they_are_alone(model, sizes) -> None:
    options = [
        {"seed": 1}, {"seed": 2, "prefix": "abc"}, {"seed": 2**64 - 1, "num_samples": 3, "suffix": "d"},
        {"seed": 1, "template": "a{{3}}b{{7}}"}, {"seed": 4, "length": 5}, {"seed": 5, "top_k": 2},
    ]  # fmt: skip
    jobs = [job(model, **each) for each in options]
    finish(*jobs)
    assert sizes == [6] * 6 + [1] * 12
    for each, made in zip(options, jobs, strict=True):
        assert made.receiver.texts == model.generate(steps=5, **each).texts
        assert made.receiver.steps == [step for step in range(1, 6) for _ in range(each.get("num_samples", 1))]


def test_many_texts_of_a_request_are_written_in_several_batches(model, sizes) -> None:
    many, one = job(model, seed=3, num_samples=7), job(model, seed=9)
    finish(many, one, max_batch=4)
    assert sizes == [4] * 6 + [4] * 6
    assert many.receiver.texts == model.generate(steps=5, seed=3, num_samples=7).texts
    assert one.receiver.texts == model.generate(steps=5, seed=9).texts


def test_a_client_that_goes_away_frees_its_place_at_the_next_step(model, sizes) -> None:
    jobs = [job(model, seed=1), job(model, seed=2, leaves_at=2), job(model, seed=3), job(model, seed=4, leaves_at=4)]
    finish(*jobs)
    assert sizes == [4, 4, 3, 3, 2, 2]
    assert [len(each.receiver.texts) for each in jobs] == [1, 0, 1, 0]
    assert jobs[0].receiver.texts == model.generate(steps=5, seed=1).texts
    assert jobs[2].receiver.texts == model.generate(steps=5, seed=3).texts
    sizes.clear()
    finish(job(model, seed=1, leaves_at=1))
    assert sizes == [1]


def test_a_request_that_is_discarded_is_never_begun(model, sizes) -> None:
    scheduler = Scheduler(1, 16, Metrics())
    gone = job(model, seed=1)
    scheduler.submit(gone)
    with pytest.raises(Refusal, match="too many requests wait") as refused:
        scheduler.submit(job(model, seed=2))
    assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1
    scheduler.discard(gone)
    other = job(model, seed=2)
    scheduler.submit(other)
    scheduler.start()
    scheduler.close()
    assert gone.receiver.items == [] and len(other.receiver.texts) == 1 and sizes == [1] * 6
    with pytest.raises(Refusal):
        scheduler.submit(job(model, seed=2))


def test_calls_take_their_turn_and_may_be_abandoned(model) -> None:
    def function(check: Callable[[], None]) -> int:
        check()
        return 7

    kept, gone, failed = Kept(), Kept(abandoned=True), Kept()
    after = job(model, seed=1)
    finish(Call(function, kept), Call(function, gone), Call(lambda check: 1 // 0, failed), after)
    assert [type(item) for item in kept.items] == [Returned] and kept.items[0].value == 7
    assert gone.items == []
    assert isinstance(failed.items[0], Failure) and isinstance(failed.items[0].error, ZeroDivisionError)
    assert len(after.receiver.texts) == 1


def test_a_failure_is_told_to_those_it_concerns_and_the_thread_goes_on(model, monkeypatch) -> None:
    first, second = job(model, seed=1), job(model, seed=2, length=3)

    def fail(ids: np.ndarray) -> str:
        raise RuntimeError("no text")

    object.__setattr__(first.writing, "decode", fail)
    finish(first, second)
    assert isinstance(first.receiver.items[-1], Failure)
    assert second.receiver.texts == model.generate(steps=5, seed=2, length=3).texts
