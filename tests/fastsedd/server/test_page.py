"""The page in a browser: a text emerges, is paused, gone back through; gaps, errors, keys; phones, and the dark."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the extra `browser` is not installed")
pytest.importorskip("axe_playwright_python", reason="the extra `browser` is not installed")
pytest.importorskip("starlette", reason="an extra")
pytest.importorskip("uvicorn", reason="an extra")
pytest.importorskip("prometheus_client", reason="an extra")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from serving import serving

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {390: 844, 1280: 800}  # and heights, in CSS pixels
STEPS = 32
KEY = "a key of the server's"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for each in BROWSERS if (found := shutil.which(each))), None)
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)} is on the path")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as server:
        yield server.address


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """open_page(width, dark, at=address, path="/") -> the page; whatever the console is told fails the test."""
    told: list[str] = []
    contexts = []

    def start(width: int = 1280, dark: bool = False, at: str = address, path: str = "/") -> Any:
        size, scheme = {"width": width, "height": WIDTHS[width]}, "dark" if dark else "light"
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if not request.url.startswith(at) else None)
        page.goto(f"{at}{path}")
        until(page, "model.textContent !== '…' || error.textContent !== ''")
        return page

    yield start
    for context in contexts:
        context.close()
    # An answer that is an error is told by the browser itself, and by the page to whoever reads it.
    assert [each for each in told if not each.startswith("Failed to load resource: the server responded")] == []


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder for screenshots: the one that FASTSEDD_SCREENSHOTS names, else one of pytest's."""
    folder = Path(os.environ.get("FASTSEDD_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def until(page: Any, condition: str) -> None:
    """Wait for an expression of JavaScript to be true; Playwright's own way would break the page's policy."""
    end = time.monotonic() + 120.0  # in which kernels may be compiled
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(5)


def faults(page: Any) -> list[str]:
    """Serious and critical faults that axe-core finds, and text that runs out of the window."""
    found = Axe().run(page).response["violations"]
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in serious] + ["too wide"] * wide


def write(page: Any, template: str = "ROMEO:{{}}", seed: int = 7, steps: int = STEPS) -> None:
    page.fill("#template", template)
    page.fill("#steps", str(steps))
    page.fill("#seed", str(seed))
    page.click("#write")


def hold(page: Any) -> None:
    """Let the page read what the server sends only as `read` asks: however slow the machine, nothing is missed."""
    page.evaluate("""() => {
        allowed = 0;
        const all = events;
        events = async function* (response) {
            for await (const each of all(response)) {
                while (allowed === 0) await new Promise(resolve => setTimeout(resolve, 5));
                allowed -= 1;
                yield each;
            }
        };
    }""")


def read(page: Any, states: int | None = None) -> None:
    """Let this many more states of a held page in, and wait for them; None : all that come."""
    before = page.evaluate("run ? run.states.length : 0")
    page.evaluate(f"allowed = {'Infinity' if states is None else states}")
    if states is not None:
        until(page, f"run.states.length === {before + states} && !run.drawing")


def settled(page: Any) -> None:
    until(page, "!copy.disabled || error.textContent")


def masked(page: Any) -> int:
    found = re.match(r"(\d+) of \d+ masked", page.inner_text("#masked"))
    assert found is not None
    return int(found[1])


def paper(page: Any) -> int:
    """Red of the page's background, 0 to 255."""
    return int(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))


def shown(page: Any) -> str:
    return str(page.evaluate("document.querySelector('#text').textContent"))


def answer(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The first choice of a reply."""
    asked = urllib.request.Request(f"{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as reply:
        return dict(json.load(reply)["choices"][0])


def filled(address: str, template: str, seed: int = 7, steps: int = STEPS) -> str:
    return str(answer(address, "/v1/fill", {"template": template, "seed": seed, "steps": steps})["text"])


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)], ids=["phone", "desk"])
def test_a_text_emerges(open_page, address: str, pictures: Path, width: int, dark: bool) -> None:
    page = open_page(width, dark)
    assert (paper(page) < 100) is dark and faults(page) == []
    page.screenshot(path=pictures / f"{width}-before.png", full_page=True)
    hold(page)
    write(page)
    left = []
    for states in (4, 14, 10):
        read(page, states)
        left.append(masked(page))
        page.screenshot(path=pictures / f"{width}-{left[-1]}-masked.png", full_page=True)
    read(page)
    settled(page)
    assert 256 > left[0] > left[1] > left[2] > 0 == masked(page)
    assert shown(page) == filled(address, "ROMEO:{{}}") and page.inner_text("#used") == "seed 7"
    assert re.fullmatch(r"\d+ tokens/s", page.inner_text("#speed"))
    assert page.evaluate("spoken.textContent") == f"The text is done: {shown(page)}"
    assert faults(page) == []
    page.screenshot(path=pictures / f"{width}-after.png", full_page=True)
    page.emulate_media(color_scheme="light" if dark else "dark")
    assert (paper(page) < 100) is not dark and faults(page) == []
    page.screenshot(path=pictures / f"{width}-other-scheme.png", full_page=True)


def test_a_text_is_paused_and_gone_back_through(open_page, address: str, pictures: Path) -> None:
    page = open_page()
    hold(page)
    write(page, "ROMEO:{{}}\nJULIET: O Romeo.", steps=60)
    read(page, 20)
    page.keyboard.press("Escape")
    assert page.inner_text("#pause") == "Go on" and page.get_attribute("#pause", "aria-pressed") == "true"
    paused, left = shown(page), masked(page)
    read(page, 10)
    assert shown(page) == paused and masked(page) == left > 0
    page.click("#pause")
    assert shown(page) != paused and left > masked(page) > 0
    read(page)
    settled(page)
    whole = filled(address, "ROMEO:{{}}\nJULIET: O Romeo.", steps=60)
    assert shown(page) == whole
    page.focus("#slider")
    page.keyboard.press("Home")
    given = 256 - masked(page)
    assert page.inner_text("#where") == "step 0 of 61"
    assert shown(page) == "ROMEO:" + "·" * masked(page) + "\nJULIET: O Romeo." and given > 0
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#where") == "step 20 of 61" and shown(page).count("·") == masked(page) > 0
    marked = page.evaluate(
        "[...document.querySelectorAll('.fresh')].map(e => [e.title, e.style.getPropertyValue('--p')])"
    )
    assert marked and all(title == f"{share[:-1]} % sure" for title, share in marked)
    assert len({share for _, share in marked}) > 1 and re.fullmatch(r"\d+ new, \d+ % sure", page.inner_text("#sure"))
    assert faults(page) == []
    page.screenshot(path=pictures / "slider.png", full_page=True)
    page.keyboard.press("End")
    assert shown(page) == whole


def test_selected_words_become_a_gap(open_page, address: str) -> None:
    page = open_page(path="/?template=To+be+or+not+to+be&steps=8&seed=5")
    page.evaluate("template.focus(); template.setSelectionRange(3, 12)")
    page.keyboard.press("Control+g")
    assert page.input_value("#template") == "To {{3}} to be" and "template=To+%7B%7B3%7D%7D+to+be" in page.url
    page.keyboard.press("Control+Enter")
    settled(page)
    assert shown(page) == filled(address, "To {{3}} to be", seed=5, steps=8)


def test_errors_are_told_in_one_line(open_page, address: str, pictures: Path) -> None:
    page = open_page(390)
    write(page, "{{}} and {{}}")
    settled(page)
    assert "template has 2 gaps" in page.inner_text("#error") and page.get_attribute("#error", "role") == "alert"
    assert faults(page) == []
    page.screenshot(path=pictures / "error.png", full_page=True)
    write(page, "Good{{20}}", steps=4)
    settled(page)
    assert not page.is_visible("#error") and shown(page) == filled(address, "Good{{20}}", steps=4)


def test_a_key_is_asked_for(open_page, tmp_path: Path, pictures: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    with serving("--api-key-file", str(keys)) as server:
        page = open_page(at=server.address)
        assert page.inner_text("#error") == "this server asks for an API key" and faults(page) == []
        page.screenshot(path=pictures / "key.png", full_page=True)
        page.fill("#key", KEY)
        write(page, "Good{{20}}", steps=4)
        settled(page)
        assert (
            not page.is_visible("#error") and shown(page).startswith("Good") and "tokens" in page.inner_text("#model")
        )


@pytest.fixture(scope="module")
def chat_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("tokenizers", reason="an extra")
    pytest.importorskip("jinja2", reason="an extra")
    import masked_models

    folder = masked_models.write(tmp_path_factory.mktemp("models") / "talker", "sdar")
    with serving("--model", str(folder)) as server:
        yield server.address


def said(page: Any) -> list[str]:
    return list(page.evaluate("[...document.querySelectorAll('.message .emerging')].map(e => e.textContent)"))


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)], ids=["phone", "desk"])
def test_a_conversation(open_page, chat_address: str, pictures: Path, width: int, dark: bool) -> None:
    page = open_page(width, dark, chat_address, "/?seed=3&tokens=12&steps=8")
    page.fill("#message", "Hello")
    page.keyboard.press("Enter")
    settled(page)
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "steps": 8, "seed": 3}
    first = answer(chat_address, "/v1/chat/completions", body)["message"]
    assert said(page) == ["Hello", first["content"]] and page.input_value("#message") == ""
    assert page.evaluate("spoken.textContent") == f"The model: {first['content']}"
    page.fill("#message", "And then?")
    page.click("#write")
    until(page, "document.querySelectorAll('.message').length === 4")
    settled(page)
    body["messages"] += [first, {"role": "user", "content": "And then?"}]
    second = answer(chat_address, "/v1/chat/completions", body)["message"]["content"]
    assert said(page) == ["Hello", first["content"], "And then?", second]
    assert faults(page) == []
    page.focus("#slider")
    page.keyboard.press("Home")
    assert said(page)[-1] == "·" * masked(page) and masked(page) == 12
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert 0 < said(page)[-1].count("·") < 12 and faults(page) == []
    page.screenshot(path=pictures / f"talk-{width}.png", full_page=True)
    page.keyboard.press("End")
    assert said(page)[-1] == second
    page.click("#anew")
    assert said(page) == [] and page.is_disabled("#slider")
    page.click("#mode")
    assert page.is_visible("#template") and not page.is_visible("#message") and faults(page) == []


def test_an_answer_that_is_stopped_is_not_told_to_the_model(open_page, chat_address: str, pictures: Path) -> None:
    page = open_page(390, at=chat_address, path="/?seed=3&tokens=12&steps=12")
    page.evaluate("""() => {
        take = Run.prototype.take;
        Run.prototype.take = function (state) {
            take.call(this, state);
            if (this.states.length === 4) $("stop").click();
        };
    }""")
    page.fill("#message", "Hello")
    page.keyboard.press("Enter")
    until(page, "!write.disabled && document.querySelectorAll('.dropped').length === 2")
    assert page.evaluate("told.length") == 0 and page.input_value("#message") == "Hello" and "·" in said(page)[1]
    assert not page.is_visible("#error") and faults(page) == []
    page.screenshot(path=pictures / "talk-stopped.png", full_page=True)
    page.evaluate("() => { Run.prototype.take = take; }")
    page.click("summary")
    assert faults(page) == []
    page.fill("#tokens", "60000")
    page.click("#write")
    until(page, "error.textContent !== ''")
    assert "max_tokens" in page.inner_text("#error") and page.input_value("#message") == "Hello"
    page.fill("#tokens", "12")
    page.click("#write")
    until(page, "told.length === 2")
    assert page.evaluate("told[0].content") == "Hello" and not page.is_visible("#error")
