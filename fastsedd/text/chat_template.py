"""Chat templates: Jinja, as tokenizers carry them, rendered in a sandbox that reaches nothing outside of it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastsedd.errors import UnavailableError

MAX_CHARACTERS = 1 << 24  # of a rendered conversation
MAX_POWER = 1 << 16  # of a base times its exponent
_REPEATING = ("*", "**")  # operators that make much of little


class ChatTemplate:
    """From a conversation to the text that is answered."""

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        """source : Jinja; variables : such as bos_token and eos_token

        Raises UnavailableError without the library, ValueError, in one line, where the source is not Jinja.
        """
        try:
            import jinja2
            from jinja2 import sandbox
        except ImportError:
            raise UnavailableError("chat templates need jinja2: pip install 'fastsedd[chat]'") from None
        self._error: type[Exception] = jinja2.TemplateError

        class Sandbox(sandbox.ImmutableSandboxedEnvironment):
            """The library's, in which no operator makes more than a conversation may be long."""

            intercepted_binops = frozenset(_REPEATING)

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                if _size(left) * _size(right) > (MAX_CHARACTERS if operator == "*" else MAX_POWER):
                    raise jinja2.TemplateError(f"{operator} makes too much")
                return super().call_binop(context, operator, left, right)

        def refuse(message: object) -> None:
            raise jinja2.TemplateError(str(message))

        environment = Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
        )
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self._variables = dict(variables or {})
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ValueError(f"the chat template is not Jinja: {_one_line(error)}") from None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text that ends where the answer begins. Raises ValueError, in one line, where the template refuses."""
        try:
            text: str = self._template.render(
                messages=[dict(message) for message in messages], add_generation_prompt=True, enable_thinking=False,
                **self._variables,
            )  # fmt: skip
        except Exception as error:  # whatever an expression of the template raises
            raise ValueError(f"the chat template refuses the conversation: {_one_line(error)}") from None
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"the chat template makes {len(text)} characters, allowed: {MAX_CHARACTERS}")
        return text


def _size(value: Any) -> int:
    """Length of what has one, magnitude of a number."""
    if isinstance(value, (str, bytes, list, tuple, dict)):
        return max(1, len(value))
    return max(1, abs(int(value))) if isinstance(value, (int, float)) and abs(value) < float("inf") else 1


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
