"""Chat templates: what they are told, and what they may not do."""

from __future__ import annotations

import builtins

import pytest

from fastsedd import UnavailableError
from fastsedd.text import ChatTemplate

pytest.importorskip("jinja2", reason="an extra")

QWEN = (
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
    "        {{- '<think>\\n\\n</think>\\n\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endif %}"
)
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def test_a_conversation_is_rendered_with_thinking_off() -> None:
    assert ChatTemplate(QWEN).render(HELLO) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_it_is_transformers_rendering() -> None:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    expected, _ = utilities.render_jinja_template(
        [HELLO], chat_template=QWEN, add_generation_prompt=True, enable_thinking=False
    )
    assert ChatTemplate(QWEN).render(HELLO) == expected[0]


def test_special_tokens_and_the_functions_of_templates() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ messages | tojson }}{{ strftime_now('%Y') | length }}", {"bos_token": "<s>"}
    )
    assert template.render([{"role": "user", "content": "é<"}]) == '<s>[{"role": "user", "content": "é<"}]4'


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "SecurityError"),
        ("{{ raise_exception.__globals__['x'] }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages[0].update({'role': 'x'}) }}", "SecurityError"),
        ("{{ 'a' * 999999999 }}", "* makes too much"),
        ("{{ 9 ** 999999999 }}", "** makes too much"),
        ("{% for i in range(999999999) %}{% endfor %}", "OverflowError"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ nothing.there }}", "UndefinedError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
    ],
)
def test_templates_that_are_refused_while_they_run(source: str, said: str) -> None:
    with pytest.raises(ValueError, match="the chat template refuses the conversation: ") as caught:
        ChatTemplate(source).render(HELLO)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_sources_that_are_not_jinja() -> None:
    with pytest.raises(ValueError, match="the chat template is not Jinja: TemplateSyntaxError"):
        ChatTemplate("{% for %}")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def refuse(name: str, *rest: object) -> object:
        if name.startswith("jinja2"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UnavailableError, match=r"pip install 'fastsedd\[chat\]'"):
        ChatTemplate("")
