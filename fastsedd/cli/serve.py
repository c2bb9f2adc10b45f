"""`fastsedd serve`: a model for programs, by OpenAI's API, and for people, on a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from fastsedd import signals
from fastsedd.cli import options as opt
from fastsedd.cli import terminal
from fastsedd.cli.loading import load
from fastsedd.cli.reading import read_text
from fastsedd.request import Source


@dataclass(frozen=True)
class _Place:
    """Where the server listens, and to whom."""

    host: str
    port: int
    api_key_file: Path | None
    allow_public: bool
    allow_origin: tuple[str, ...]


@dataclass(frozen=True)
class _Bounds:
    """Options that are the server's limits; see `fastsedd.server.limits.Limits`."""

    max_queue: int
    max_batch: int
    timeout: float
    max_steps: int
    max_samples: int


@click.command("serve", short_help="Serve a model: OpenAI's API, and a page.")
@opt.model_option(f"{opt.MODEL[0].upper()}{opt.MODEL[1:]}.")
@opt.source
@click.option("--host", metavar="H", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", metavar="N", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--api-key-file", metavar="FILE", type=opt.FILE, help="Keys, one a line, of which each request must have one."
)
@click.option("--allow-public", is_flag=True, help="Listen beyond this machine without a key.")
@click.option(
    "--allow-origin", metavar="URL", multiple=True, help="Pages of this origin may call it (CORS); repeatable."
)
@click.option("--name", metavar="NAME", help="The model's name in the API.  [default: by its path]")
@click.option(
    "--max-queue", metavar="N", type=opt.POSITIVE, default=64, show_default=True, help="Requests that may wait."
)
@click.option(
    "--max-batch", metavar="N", type=opt.POSITIVE, default=16, show_default=True, help="Texts denoised together."
)
@click.option(
    "--timeout", metavar="S", type=opt.Range(0.1, 86400.0), default=120.0, show_default=True,
    help="Seconds that a request may take, waiting included.",
)  # fmt: skip
@click.option(
    "--max-steps", metavar="N", type=opt.POSITIVE, default=1024, show_default=True, help="Most steps of a request."
)
@click.option(
    "--max-samples", metavar="N", type=opt.POSITIVE, default=16, show_default=True, help="Most texts of a request."
)
@opt.dtype
@opt.threads
@opt.quiet
@opt.gathered("place", _Place)
@opt.gathered("bounds", _Bounds)
def command(source: Source, place: _Place, bounds: _Bounds, name: str | None, threads: int | None, quiet: bool) -> None:
    """Serve a model: OpenAI's API under /v1, a page at /.

    SIGINT or SIGTERM ends it, once open requests are answered. It needs the extra `serve`. Without a key it listens on
    this machine alone, unless --allow-public is given.
    """
    try:
        from fastsedd.server import app, limits, running
    except ImportError as error:
        raise ImportError(
            f"serve needs starlette, uvicorn and prometheus-client: pip install '.[serve]' ({error})"
        ) from None

    keys = () if place.api_key_file is None else _keys(place.api_key_file)
    if not keys and not place.allow_public and not running.is_loopback(place.host):
        raise click.UsageError(
            f"--host {place.host} is reached from other machines, allowed: with --api-key-file FILE, or --allow-public"
        )
    model = load(source, threads, quiet=quiet)
    own = limits.Limits(bounds.max_queue, bounds.max_batch, bounds.timeout, bounds.max_steps, bounds.max_samples)
    name = name or _name(source.path)
    served = app.build(model, name, own, keys, place.allow_origin)

    def ready(address: str) -> None:
        if not quiet:
            terminal.say(f"serving {name} at {address}")

    try:
        running.run(served, place.host, place.port, bounds.timeout, ready)
    except signals.Stopped:
        if not quiet:
            terminal.say("ended, with no request open")


def _name(path: str | None) -> str:
    """A model's name in the API: the last part of its path."""
    return "shakespeare" if path is None else Path(path).resolve().name


def _keys(path: Path) -> tuple[str, ...]:
    keys = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not keys:
        raise ValueError(f"{path} holds no key, allowed: one a line")
    return keys
