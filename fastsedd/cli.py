"""The command line: argv to one call each, results to stdout, everything said about them to stderr."""

from __future__ import annotations

import codecs
import dataclasses
import functools
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

import fastsedd
from fastsedd import signals, streams

# What takes long to import (NumPy, Numba, rich) is imported by the commands that need it: help comes at once.
if TYPE_CHECKING:
    from fastsedd import Dtype, Evaluation, Model, Sample
    from fastsedd.bench import Measurements, Profile
    from fastsedd.cluster import RemoteModel
    from fastsedd.display import OnStep
    from fastsedd.output import Lines
    from fastsedd.quality.measures import Quality

RULE = "-" * 72

INTERRUPTED = 130

# Options of several commands.
_quiet = click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
_threads = click.option("--threads", metavar="N", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
_dtype = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "int8"]),
    default="float32",
    show_default=True,
    help="What large layers compute in: the shorter, the faster.",
)


MODEL = "a folder, a file of weights or a name on the hub (owner/name, or owner/name/file)"

_revision = click.option("--revision", metavar="R", help="Branch, tag or commit of a name on the hub.")
_offline = click.option("--offline", is_flag=True, help="Use what the hub has sent before, and no network.")
_heads = click.option(
    "--heads", metavar="N", type=click.IntRange(min=1), help="Attention heads of a file that does not say how many."
)


def _source(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say where a model comes from, as one argument: what `fastsedd.load` takes besides a path."""

    @functools.wraps(command)
    def gathered(
        *, revision: str | None, offline: bool, tokenizer: str | None, heads: int | None, **options: Any
    ) -> None:
        source = {"revision": revision, "offline": offline, "tokenizer": tokenizer, "heads": heads}
        return command(source=source, **options)

    tokenizer = click.option(
        "--tokenizer", metavar="T", help="A folder, a tokenizer.json or a name on the hub.  [default: the model's own]"
    )
    return _revision(_offline(tokenizer(_heads(gathered))))


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
    _say(f"fastsedd: error: {' '.join(words.split()) or type(error).__name__}")


def _say_stopped(stopped: KeyboardInterrupt) -> int:
    """Say what ended the program; its exit code."""
    code = stopped.code if isinstance(stopped, signals.Stopped) else INTERRUPTED
    _say("fastsedd: interrupted" if code == INTERRUPTED else f"fastsedd: ended by {stopped}")
    return code


def _settle_stdout() -> None:
    """Write what stdout still holds, of a command that has failed for another reason."""
    with suppress(OSError):
        streams.finish()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fastsedd.__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Text diffusion (SEDD) on a CPU."""


@main.command()
@click.option("--model", metavar="M", help=f"{MODEL[0].upper()}{MODEL[1:]}.  [default: the shipped model]")
@_source
@click.option("--steps", metavar="N", type=click.IntRange(min=1), help="Denoising steps.  [default: the model's own]")
@click.option(
    "--num-samples", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="Texts to write."
)
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    help="Texts denoised together.  [default: by memory and speed]",
)
@click.option("--length", metavar="N", type=click.IntRange(min=1), help="Tokens a text.  [default: the model's own]")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**64 - 1), help="Decides the texts.  [default: random]")
@click.option("--prefix", metavar="TEXT", default="", help="What every text begins with.")
@click.option("--suffix", metavar="TEXT", default="", help="What every text ends with.")
@click.option(
    "--template",
    metavar="FILE",
    type=click.Path(allow_dash=True, dir_okay=False, path_type=Path),
    help="Text with gaps to fill, - for standard input: {{40}} is a gap of 40 tokens, {{}} one of all that are left.",
)
@click.option(
    "--predictor",
    type=click.Choice(["analytic", "euler", "ddpm"]),
    help="What a step does; ddpm for mdlm and radd only.  [default: ddpm for mdlm, else analytic]",
)
@click.option(
    "--draw",
    type=click.Choice(["exact", "official"]),
    default="exact",
    show_default=True,
    help="Categorical draw: exact, or with the published code's arithmetic.",
)
@click.option(
    "--temperature",
    metavar="X",
    type=click.FloatRange(min=0, min_open=True),
    help="Below 1 safer, above 1 wilder.  [default: the model's own]",
)
@click.option(
    "--top-k",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Jump to the N likeliest tokens only; 0 for all.",
)
@click.option(
    "--top-p",
    metavar="P",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Jump to the likeliest tokens only, that share of the probability.",
)
@click.option(
    "--grid",
    type=click.Choice(["uniform", "log-sigma", "fitted"]),
    default="uniform",
    show_default=True,
    help="How steps share out the noise: as in the article, by its logarithm, or fitted to the model.",
)
@_dtype
@_threads
@click.option("--watch", is_flag=True, help="On a terminal, show a text emerging from noise.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a text.")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write there: with --json text by text, else whole or not at all.",
)
@click.option(
    "--resume", is_flag=True, help="Write what is missing in --output FILE, with --json, of the same request."
)
@click.option(
    "--scheduler",
    metavar="S",
    help="Share the texts out to dask's workers: tcp://HOST:PORT, or local:N for N processes here.",
)
@_quiet
def generate(
    model: str | None,
    source: dict[str, Any],
    num_samples: int,
    seed: int | None,
    template: Path | None,
    dtype: Dtype,
    threads: int | None,
    watch: bool,
    as_json: bool,
    output: Path | None,
    resume: bool,
    scheduler: str | None,
    quiet: bool,
    **request: Any,  # what `Model.stream` takes, under its names
) -> None:
    """Write texts.

    The same seed gives the same texts, for any number of threads, any batch size and any number of workers.
    """
    if watch and (quiet or scheduler is not None):
        raise click.UsageError(f"--watch shows progress, which {'--quiet forbids' if quiet else 'workers do not'}")
    if resume and not (as_json and output):
        raise click.UsageError("--resume goes on with a file of JSON lines: give --json and --output FILE")
    if template is not None:
        request["template"] = _read(template)
    if output is None:
        streams.require_stdout()
        note = streams.note()
        if note is not None and not (as_json or quiet):
            _say(note)
    with _exclusive(output), ExitStack() as held:
        resumed = _resumed(output) if resume else None
        seed = _seed(seed, resumed)
        writer = held.enter_context(_writer(model, source, threads, dtype, scheduler, quiet=quiet))
        asked = num_samples
        if output is not None and resumed is not None:
            steps = request["steps"] or writer.config.generation.steps
            resumed.check(output, seed, steps, writer.name, num_samples)
            request["indices"] = resumed.missing(num_samples)
            asked = len(request["indices"])
        with _progress(writer, asked, remote=scheduler is not None, watch=watch, quiet=quiet) as progress:
            samples = writer.stream(num_samples=num_samples, seed=seed, **progress, **request)
            if not quiet:
                _say(f"seed {seed}")
            with _output(output, grows=as_json, resumed=resumed, quiet=quiet) as write:
                for line in _json_lines(samples, writer.name) if as_json else _lines(samples):
                    write(line)
                    signals.check()


@main.command()
@click.argument("model", metavar="[M]", required=False)
@_source
@_dtype
def inspect(model: str | None, source: dict[str, Any], dtype: Dtype) -> None:
    """Say what a checkpoint is, and what each part of it would be computed in.

    M is a folder, a file of weights or a name on the hub, by default the shipped model.
    """
    streams.require_stdout()
    from fastsedd import display

    display.print_facts(_facts(_load(model, source, dtype=dtype)))


@main.command()
@click.argument("paths", metavar="[M] FILE", nargs=-1)
@_source
@click.option(
    "--samples",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Measure these texts, without a model: of `generate`, with --json or without.",
)
@click.option(
    "--reference",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --samples: the text to measure by.",
)
@click.option(
    "--times",
    metavar="N",
    type=click.IntRange(1, 2**16),
    default=8,
    show_default=True,
    help="Network runs a window, each at a noise of its own.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="Decides the noise.",
)
@click.option(
    "--batch-size", metavar="N", type=click.IntRange(min=1), help="Windows run together.  [default: by memory]"
)
@_dtype
@_threads
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_quiet
def evaluate(
    paths: tuple[str, ...],
    source: dict[str, Any],
    samples: Path | None,
    reference: Path | None,
    dtype: Dtype,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **request: Any,
) -> None:
    """Bound how surprising a text is to a model: nats and bits a token, perplexity.

    M is as in `inspect`, by default the shipped model. FILE is UTF-8; it is cut into windows of the
    model's length, side by side, and a shorter rest is left out. Standard errors are over windows.

    With --samples it measures texts instead, by a --reference: its first 90 % trains a word list and a character
    5-gram model (Kneser-Ney), its last 10 %, in windows as long as the texts, is measured beside them as real text.
    Standard errors are over texts.
    """
    streams.require_stdout()
    if (samples is None) != (reference is None) or (samples is not None and paths):
        raise click.UsageError("--samples FILE and --reference FILE go together, without [M] FILE")
    if samples is not None and reference is not None:
        _measure(samples, reference, as_json=as_json)
        return
    if not 1 <= len(paths) <= 2:
        raise click.UsageError(f"{len(paths)} paths are given, allowed: [M] FILE")
    text = _read(Path(paths[-1]))
    model = _load(paths[0] if len(paths) == 2 else None, source, threads, dtype, quiet=quiet)
    with _counting("evaluating", quiet=quiet) as progress:
        evaluation = model.evaluate(text, progress=progress, **request)
    if as_json:
        click.echo(json.dumps(_evaluation_object(evaluation, model)))
    else:
        from fastsedd import display

        display.print_facts(_evaluation_facts(evaluation, model))


@main.command()
@click.argument("model", metavar="[M]", required=False)
@_source
@click.option(
    "--texts",
    "num_texts",
    metavar="N",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Texts that the model writes to be measured with.",
)
@click.option(
    "--nodes",
    metavar="N",
    type=click.IntRange(2, 1024),
    default=64,
    show_default=True,
    help="Times at which each text is noised.",
)
@click.option("--batch-size", metavar="N", type=click.IntRange(min=1), help="Texts run together.  [default: by memory]")
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="Decides texts and noise.",
)
@click.option(
    "--temperature",
    metavar="X",
    type=click.FloatRange(min=0, min_open=True),
    help="What the grid is to be used with.  [default: the model's own]",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to keep it.  [default: grid.json beside the weights]",
)
@_dtype
@_threads
@_quiet
def fit_grid(
    model: str | None,
    source: dict[str, Any],
    output: Path | None,
    dtype: Dtype,
    threads: int | None,
    quiet: bool,
    **request: Any,
) -> None:
    """Fit a time grid to a model, once, for `generate --grid fitted` with any number of steps.

    M is a folder or a file of weights, with `--output` also a name on the hub, or nothing, the shipped model. Steps
    come to lie close where leaving one out would cost most, on texts that the model writes itself.
    """
    from fastsedd.checkpoint import grid_json

    if output is None and (model is None or not Path(model).exists()):
        raise click.UsageError("--output FILE is needed where M is no folder or file of your own")
    loaded = _load(model, source, threads, dtype, quiet=quiet)
    with _counting("fitting", quiet=quiet) as progress:
        fitted = loaded.fit_grid(progress=progress, **request)
    output = loaded.path.with_name(grid_json.NAME) if output is None else output
    grid_json.write(output, fitted)
    click.echo(f"{output} holds {len(fitted.times)} times")


@main.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(file_okay=False, path_type=Path))
@_revision
@_offline
@_heads
def convert(source: str, target: Path, revision: str | None, offline: bool, heads: int | None) -> None:
    """Write a checkpoint anew, as DST/model.safetensors and DST/config.json, every value bit for bit.

    SRC is a folder, a file of weights (.safetensors, or .bin, .pt and .pth from PyTorch) or a name on the hub. Of a
    training run the moving average is taken. DST is a new folder, made whole or not at all.
    """
    _quiet_hub_off_terminals()
    with _counting("converting") as progress:
        fastsedd.convert(source, target, revision, offline=offline, heads=heads, progress=progress, note=_say)
    click.echo(f"{target} holds model.safetensors and config.json")


@main.command()
def warmup() -> None:
    """Compile every kernel for this CPU, once."""
    import fastsedd_kernels

    folder = fastsedd_kernels.cache_folder()
    if folder is None:
        raise OSError("kernels cannot be kept: name a folder of your own in FASTSEDD_CACHE_DIR")
    with _compiling() as progress:
        fastsedd.warmup(progress)
    click.echo(f"kernels for this CPU are in {folder}")


@main.command()
@_threads
@click.option("--seconds", metavar="S", type=click.FloatRange(min=0.01), default=10.0, show_default=True, help="Time.")
@click.option("--json", "as_json", is_flag=True, help="One object instead of tables.")
@click.option("--model", metavar="M", help="Whose forward to measure.  [default: the shipped model]")
@_source
@_dtype
@click.option("--profile", is_flag=True, help="Only where the time of a forward goes.")
@click.option("--tune", is_flag=True, help="First measure how products are best cut up here, a minute, and keep it.")
def bench(
    threads: int | None,
    seconds: float,
    as_json: bool,
    model: str | None,
    source: dict[str, Any],
    dtype: Dtype,
    profile: bool,
    tune: bool,
) -> None:
    """This machine's kernels and forward against its own measured peak, and against NumPy.

    The machine's limits are measured beside each kernel. benchmarks/ in the repository compares with more libraries.
    """
    streams.require_stdout()
    from fastsedd import bench as benches
    from fastsedd import display

    loaded = _load(model, source, threads, dtype)
    if tune:
        _tune()
    if profile:
        measured: Measurements | Profile = benches.profile(loaded)
    else:
        with _counting("measuring") as progress:
            measured = benches.run(loaded, seconds, progress)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(measured)))
    else:
        display.print_facts(benches.facts(measured))


def _tune() -> None:
    import fastsedd_kernels

    with _counting("tuning") as progress:
        tuned = fastsedd_kernels.tune(progress)
    if tuned.limits == fastsedd_kernels.DEFAULT_LIMITS:
        _say("tuned: the default blocks are the best here")
    else:
        _say(f"tuned: {tuned.limits}, {tuned.gain:.3f} times as fast as the default; kept in {tuned.file}")


def _counting(
    what: str, *, unit: str | None = None, quiet: bool = False
) -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar on a terminal, with how many a second of a unit, else nothing."""
    if quiet or not sys.stderr.isatty():
        return nullcontext(lambda done, total: None)
    from fastsedd import display

    return display.counting_bar(what, unit)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _load(
    model: str | None,
    source: dict[str, Any],
    threads: int | None = None,
    dtype: Dtype = "float32",
    *,
    quiet: bool = False,
) -> Model:
    if not quiet:
        _announce_compilation()
    if threads is not None:
        import fastsedd_kernels

        fastsedd_kernels.set_num_threads(threads)
    _quiet_hub_off_terminals(quiet=quiet)
    return fastsedd.load(model, dtype, **source, note=(lambda line: None) if quiet else _say)


def _quiet_hub_off_terminals(*, quiet: bool = False) -> None:
    """The hub's library shows progress of its own, on stderr, wherever that leads."""
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _announce_compilation() -> None:
    import fastsedd_kernels

    def say() -> None:
        kept = fastsedd_kernels.cache_folder() is not None
        often = "once" if kept else "they cannot be kept: name a folder of your own in FASTSEDD_CACHE_DIR"
        _say(f"compiling kernels for this CPU ({often}; about a minute at most)…")

    fastsedd_kernels.on_compile(say)


def _compiling() -> AbstractContextManager[Callable[[int, int], None] | None]:
    """How the progress of a warm-up is shown: a bar on a terminal, else one line."""
    if not sys.stderr.isatty():
        _announce_compilation()
        return nullcontext()
    from fastsedd import display

    return display.counting_bar("compiling kernels for this CPU")


def _read(file: Path) -> str:
    """The text of a file, or of standard input for "-", without a byte-order mark and with line ends of one character.

    Raises ValueError where it is not UTF-8.
    """
    try:
        data = streams.read_stdin() if file == Path("-") else file.read_bytes()
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        if error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{file}: is UTF-16, allowed: UTF-8") from None
        raise ValueError(f"{file}: is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}") from None


def _resumed(path: Path | None) -> Lines | None:
    """What a request that ended before its time has left."""
    from fastsedd import output

    return None if path is None else output.read_lines(path)


def _seed(given: int | None, resumed: Lines | None) -> int:
    """The seed asked for, else that of the texts there are, else any."""
    if given is None and resumed is not None:
        given = resumed.seed
    return secrets.randbits(32) if given is None else given


@contextmanager
def _exclusive(path: Path | None) -> Iterator[None]:
    """Be the only process that writes a file, from before it is read to its end. Standard output needs none of it."""
    if path is None:
        yield
        return
    from fastsedd import file_lock, output

    with file_lock.exclusive(path) as held:
        if held:
            output.remove_leftovers(path)
        yield


@contextmanager
def _writer(
    model: str | None, source: dict[str, Any], threads: int | None, dtype: Dtype, scheduler: str | None, *, quiet: bool
) -> Iterator[Model | RemoteModel]:
    """Who writes the texts: this process or, with a scheduler, others."""
    if scheduler is None:
        yield _load(model, source, threads, dtype, quiet=quiet)
        return
    from fastsedd import cluster

    note = (lambda line: None) if quiet else _say
    with cluster.connect(scheduler, model, dtype, threads=threads, **source, note=note) as workers:
        yield workers


@contextmanager
def _progress(writer: Any, num_samples: int, *, remote: bool, watch: bool, quiet: bool) -> Iterator[dict[str, Any]]:
    """How the progress of so many texts is shown, as an argument of the writer's `stream`."""
    if remote:
        with _counting("writing", unit="samples", quiet=quiet) as progress:
            yield {"progress": progress}
    else:
        with _denoising(writer, num_samples, watch=watch, quiet=quiet) as on_step:
            yield {"on_step": on_step}


def _denoising(model: Model, num_samples: int, *, watch: bool, quiet: bool) -> AbstractContextManager[OnStep | None]:
    """How the progress of a request is shown: not at all where nobody looks."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    from fastsedd import display

    if watch:
        return display.denoising_view(num_samples, model.tokenizer, model.config.mask_token)
    return display.denoising_bar(num_samples)


@contextmanager
def _output(path: Path | None, *, grows: bool, resumed: Lines | None, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Write lines to standard output, to a file that takes its name once it is complete, or to one that grows."""
    from fastsedd import output

    if path is None or not grows or (path.exists() and not path.is_file()):
        with nullcontext(sys.stdout) if path is None else output.whole_file(path) as file:
            yield lambda line: _write_line(file, line)
        return
    if resumed is None and output.set_aside(path) and not quiet:
        _say(f"{path} was there already: it is {path}~ now")
    try:
        with output.growing_file(path, resumed or output.Lines()) as write:
            yield write
    except BaseException:
        if not quiet and path.is_file():
            _say(f"{path} keeps the texts that are done: --resume goes on with it")
        raise


def _write_line(file: TextIO, line: str) -> None:
    file.write(f"{line}\n")
    file.flush()


def _lines(samples: Iterable[Sample]) -> Iterator[str]:
    """Texts, with a rule between them."""
    for sample in samples:
        yield sample.text if sample.index == 0 else f"{RULE}\n{sample.text}"


def _json_lines(samples: Iterable[Sample], model: str) -> Iterator[str]:
    from fastsedd.output import json_line

    return (json_line(sample, model) for sample in samples)


def _facts(model: Model) -> list[tuple[str, str]]:
    config = model.config
    mask = "" if config.mask_token is None else " and a mask"
    assumed = ", assumed: the file does not say (--heads N)" if model.assumed else ""
    sigma = f", sigma {config.noise.sigma_min:g} to {config.noise.sigma_max:g}"
    return [
        ("model", model.name),
        ("architecture", config.architecture),
        ("parameters", f"{model.parameters:,}"),
        ("stored dtype", model.stored_dtype),
        *model.precision,
        ("width", f"{config.width}"),
        ("blocks", f"{config.blocks}"),
        ("heads", f"{config.heads} of {config.head_dim}{assumed}"),
        ("length", f"{config.length} tokens"),
        ("vocabulary", f"{config.tokens} tokens{mask}"),
        ("tokenizer", model.tokenizer.description),
        ("graph", config.graph),
        ("noise", config.noise.type + (sigma if config.noise.type == "geometric" else "")),
        ("fitted grid", "none" if model.fitted is None else f"{len(model.fitted.times)} times"),
        ("generation", f"{config.generation.steps} steps, temperature {config.generation.temperature:g}"),
    ]


def _evaluation_facts(evaluation: Evaluation, model: Model) -> list[tuple[str, str]]:
    rest = f", {evaluation.left_out:,} left out" if evaluation.left_out else ""
    return [
        ("model", f"{model.name}, {model.dtype}"),
        ("nats a token", _estimate(evaluation.nats, evaluation.nats_error)),
        ("bits a token", _estimate(evaluation.bits, evaluation.bits_error)),
        ("perplexity", _estimate(evaluation.perplexity, evaluation.perplexity_error)),
        ("outside schedule", f"{evaluation.ends:.4f} of the nats, which the published code leaves out"),
        ("tokens", f"{evaluation.tokens:,}{rest}"),
        ("windows", f"{evaluation.windows:,}, each at {evaluation.times} times"),
        ("seed", f"{evaluation.seed}"),
    ]


def _estimate(value: float, error: float | None) -> str:
    return f"at most {_measured(value, error)}"


def _measure(samples: Path, reference: Path, *, as_json: bool) -> None:
    """Print the measures of texts, and of real text beside them."""
    from fastsedd.quality.measures import Reference
    from fastsedd.quality.samples import split

    try:
        texts = split(_read(samples), RULE)
    except ValueError as error:
        raise ValueError(f"{samples}: {error}") from None
    found = Reference(_read(reference)).measure(texts)
    if as_json:
        found_object = json.loads(json.dumps(dataclasses.asdict(found)), parse_constant=lambda nan: None)
        click.echo(json.dumps(found_object))  # JSON has no NaN, which is what texts without any word have
    else:
        from fastsedd import display

        display.print_facts(_quality_facts(found))


def _quality_facts(quality: Quality) -> list[tuple[str, str]]:
    left_out = f", {quality.unmeasured} without characters left out" if quality.unmeasured else ""
    facts = [("texts", f"{quality.samples.texts}{left_out}; real text: {quality.real.texts} windows")]
    for (name, given), (_, real) in zip(quality.samples.named(), quality.real.named(), strict=True):
        facts.append((name, f"{_measured(given.value, given.error)}; real text: {_measured(real.value, real.error)}"))
    return facts


def _measured(value: float, error: float | None) -> str:
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _evaluation_object(evaluation: Evaluation, model: Model) -> dict[str, Any]:
    numbers = ("nats", "nats_error", "bits", "bits_error", "perplexity", "perplexity_error")
    counts = ("ends", "tokens", "left_out", "windows", "times", "seed")
    fields = {name: getattr(evaluation, name) for name in (*numbers, *counts)}
    return {"model": model.name, "dtype": model.dtype, **fields}
