"""The command line: argv to one call each, results to stdout, everything said about them to stderr.

One file per command. What takes long to import (NumPy, Numba, rich) is imported by the functions that need it: help
comes at once.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import click

import fastsedd
from fastsedd import signals, streams
from fastsedd.cli import bench, chat, convert, evaluate, fit_grid, generate, inspect, serve, warmup
from fastsedd.cli.terminal import say

INTERRUPTED = 130


class _Commands(click.Group):
    """Ends every command that fails, or is stopped by a signal, with one line and its exit code."""

    def main(self, *args: Any, **settings: Any) -> Any:
        streams.prepare()
        try:
            with signals.raised():
                return super().main(*args, **settings)
        except KeyboardInterrupt as stopped:  # outside a command
            sys.exit(_say_stopped(stopped))
        except OSError as error:  # help for a disk that is full
            streams.drop_stdout()
            _say_error(error)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            streams.finish()
            return result
        except BrokenPipeError:
            streams.drop_stdout()
            raise  # nobody reads on: Click ends the program without a word
        except (ImportError, ValueError, OSError, MemoryError) as error:
            _say_error(error)
            _settle_stdout()
            ctx.exit(1)
        except KeyboardInterrupt as stopped:
            code = _say_stopped(stopped)
            _settle_stdout()
            ctx.exit(code)


def _say_error(error: Exception) -> None:
    words = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.filename2 is None and error.strerror:
        words = f"{error.filename}: {error.strerror}"  # without "[Errno 28]"
    say(f"fastsedd: error: {' '.join(words.split()) or type(error).__name__}")


def _say_stopped(stopped: KeyboardInterrupt) -> int:
    """Say what ended the program; its exit code."""
    code = stopped.code if isinstance(stopped, signals.Stopped) else INTERRUPTED
    say("fastsedd: interrupted" if code == INTERRUPTED else f"fastsedd: ended by {stopped}")
    return code


def _settle_stdout() -> None:
    """Write what stdout still holds, of a command that has failed for another reason."""
    with suppress(OSError):
        streams.finish()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fastsedd.__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Text diffusion (SEDD, MDLM, RADD, UDLM, Duo, masked language models) on a CPU."""


for module in (generate, chat, inspect, evaluate, fit_grid, convert, serve, warmup, bench):
    main.add_command(module.command)
