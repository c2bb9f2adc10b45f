"""`fastsedd chat`: a conversation with a masked language model, at a terminal or through a pipe."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from fastsedd import signals, streams
from fastsedd.cli import options as opt
from fastsedd.cli import terminal, unmasking
from fastsedd.cli.conversation import Conversation, is_exit, read_message
from fastsedd.cli.loading import load
from fastsedd.request import Request, Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from fastsedd import Model
    from fastsedd.request import AllOptions, Messages


@click.command("chat")
@click.option("--model", "path", metavar="M", required=True, help=f"{opt.MODEL[0].upper()}{opt.MODEL[1:]}.")
@opt.source
@click.option("--system", "instructions", metavar="TEXT", help="How to answer.")
@click.option("--steps", metavar="N", type=int, help="Denoising steps per answer.  [default: one per token]")
@click.option(
    "--temperature", metavar="X", type=float, help="0 takes the likeliest tokens.  [default: the model's own]"
)
@click.option("--top-k", metavar="N", type=int, default=0, help="Keep only the N likeliest tokens.")
@click.option("--top-p", metavar="P", type=float, default=1.0, help="Keep the likeliest tokens that sum to P.")
@click.option("--seed", metavar="N", type=int, help="Decides every answer.  [default: random]")
@unmasking.options
@opt.dtype
@opt.threads
@opt.quiet
def command(
    source: Source, instructions: str | None, threads: int | None, quiet: bool, **options: Unpack[AllOptions]
) -> None:
    """Converse with a masked language model.

    On a terminal an answer is seen being unmasked; /help there lists commands. Through a pipe each line, or lines
    between two of triple quotes, is a message, and answers are plain lines.
    """
    conversation = Conversation(instructions)
    try:
        request = _request(options, conversation.asking(""))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    streams.require_stdout()
    model = load(source, threads, quiet=quiet)
    model.run(request)  # which refuses, at once, a model or a tokenizer without conversations
    if sys.stdin is not None and sys.stdin.isatty():
        _at_a_terminal(model, conversation, options, quiet=quiet)
    else:
        _through_a_pipe(model, conversation, options)


def _through_a_pipe(model: Model, conversation: Conversation, options: AllOptions) -> None:
    with suppress(EOFError):
        while not is_exit(line := read_message(lambda _: streams.read_line())):
            said = conversation.obey(line)
            if said is not None:
                terminal.say(said)
            elif line.strip():
                (sample,) = model.run(_request(options, conversation.asking(line)))
                conversation.add(line, sample.text)
                _print(sample.text)


def _at_a_terminal(model: Model, conversation: Conversation, options: AllOptions, *, quiet: bool) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401  lines are edited, and come back, where it is there
    if not quiet:
        terminal.say("/help lists commands; Ctrl-D ends")
    while True:
        try:
            with signals.interruptible():
                line = read_message(_ask)
        except KeyboardInterrupt:
            terminal.say("")
            continue
        except EOFError:
            terminal.say("")
            return
        if is_exit(line):
            return
        try:
            said = conversation.obey(line)
            if said is not None:
                terminal.say(said)
            elif line.strip():
                _answer(model, conversation, line, options, quiet=quiet)
        except KeyboardInterrupt as stopped:
            if isinstance(stopped, signals.Stopped):
                raise
            terminal.say("interrupted; the question is forgotten")
        except (ValueError, OSError) as error:
            terminal.say(f"{error}; /reset forgets what was said" if "messages have" in str(error) else str(error))


def _answer(model: Model, conversation: Conversation, question: str, options: AllOptions, *, quiet: bool) -> None:
    with signals.interruptible() as check, terminal.answering(model, options, quiet=quiet) as show:

        def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
            check()
            if show is not None:
                show(step, steps, tokens)

        (sample,) = model.run(_request(options, conversation.asking(question)), on_step)
    conversation.add(question, sample.text)
    _print(sample.text)


def _request(options: AllOptions, messages: Messages) -> Request:
    asked = options.copy()
    asked["messages"] = messages
    return Request.of(**asked)


def _ask(more: bool) -> str:
    """A line from the terminal, after a prompt."""
    prompt = "... " if more else ">>> "
    if sys.stdout.isatty():
        return input(prompt)
    click.echo(prompt, err=True, nl=False)
    return streams.read_line()


def _print(answer: str) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()
