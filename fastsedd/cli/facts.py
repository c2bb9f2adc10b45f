"""Results as names and values, for a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsedd import Evaluation, Model
    from fastsedd.bench import Measurements, Profile
    from fastsedd.loading import Outline
    from fastsedd.quality.measures import Quality

Facts = list[tuple[str, str]]


def show(facts: Facts) -> None:
    """Print them: a table on a terminal, else aligned lines."""
    from fastsedd import display

    display.print_facts(facts)


def of_model(model: Model) -> Facts:
    """A checkpoint: architecture, sizes, process, and what it is computed in."""
    config = model.config
    mask = "" if config.mask_id is None else f" and a mask, {config.mask_id}"
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
        ("length", _counted(config.length, "token")),
        ("vocabulary", f"{config.tokens} tokens{mask}"),
        ("predicts", config.output),
        ("tokenizer", model.tokenizer.description),
        ("graph", config.graph),
        ("noise", config.noise.type + (sigma if config.noise.type in ("geometric", "linear") else "")),
        ("fitted grid", "none" if model.fitted is None else f"{len(model.fitted.times)} times"),
        ("generation", f"{_counted(config.generation.steps, 'step')}, temperature {config.generation.temperature:g}"),
    ]


def of_outline(outline: Outline) -> Facts:
    """A masked language model: family, sizes, attention, how it unmasks, and its memory in each dtype."""
    config, backbone = outline.config, outline.config.backbone
    assert backbone is not None
    own = backbone.unmasking
    written = "all at once" if own.block_length is None else f"in blocks of {own.block_length}"
    origin = "the first token" if backbone.origin == "start" else "the prompt's end"
    sure = "" if own.threshold is None else f", all of probability {own.threshold:g} or more"
    scaling = dict(backbone.scaling)
    kind = scaling.get("rope_type", scaling.get("type", ""))
    quota = "one mask at a time" if own.quota == "single" else f"quotas of {own.quota}"
    length = _counted(config.length, "token") if backbone.context is None else f"any, in a window of {config.length:,}"
    cache = f"{outline.cache / 1024:g}"
    return [
        ("model", outline.name),
        ("architecture", config.architecture),
        ("parameters", f"{config.parameters:,}"),
        ("stored dtype", outline.stored_dtype),
        ("width", f"{config.width}, {backbone.hidden} in its MLPs"),
        ("layers", f"{config.blocks}"),
        ("heads", f"{config.heads} of {config.head_dim}, {backbone.kv_heads} of keys and values"),
        (
            "positions",
            "learned"
            if config.family.network == "gpt2"
            else f"rotary, theta {backbone.theta:g}{kind and f', {kind} scaling'}",
        ),
        ("length", length),
        ("vocabulary", f"{config.tokens} tokens and a mask, {config.mask_id}"),
        ("ends", ", ".join(map(str, backbone.ends)) or "none"),
        ("attention", "full" if backbone.block is None else f"in blocks of {backbone.block} from {origin}"),
        ("logits", "of the next position" if backbone.shift else "of the position itself"),
        ("head", "the embedding" if backbone.tied else "of its own"),
        ("tokenizer", outline.tokenizer.description),
        ("conversations", "by its chat template" if outline.chats else "none: no chat template"),
        ("answers", f"{_counted(own.max_new_tokens, 'token')} {written}"),
        ("sampler", f"order {own.order}{sure}, {quota}, temperature {config.generation.temperature:g}"),
        *((f"memory, {dtype}", _megabytes(size)) for dtype, size in outline.memory.items()),
        ("cache", f"{cache} KiB per token in float32" if backbone.block else "none, or approximate: attention is full"),
    ]


def of_evaluation(evaluation: Evaluation, model: Model) -> Facts:
    """A bound, with its standard errors."""
    rest = f", {evaluation.left_out:,} left out" if evaluation.left_out else ""
    return [
        ("model", f"{model.name}, {model.dtype}"),
        ("nats per token", _estimate(evaluation.nats, evaluation.nats_error)),
        (
            "nats per character",
            _estimate(evaluation.nats_per_character, evaluation.nats_per_character_error),
        ),
        ("bits per token", _estimate(evaluation.bits, evaluation.bits_error)),
        ("perplexity", _estimate(evaluation.perplexity, evaluation.perplexity_error)),
        ("outside schedule", f"{evaluation.ends:.4f} of the nats, which the published code leaves out"),
        ("tokens", f"{evaluation.tokens:,}{rest}"),
        ("characters", f"{evaluation.characters:,}"),
        ("windows", f"{evaluation.windows:,}, each at {_counted(evaluation.times, 'time')}"),
        ("seed", f"{evaluation.seed}"),
    ]


def of_quality(quality: Quality) -> Facts:
    """Measures of texts, and of real text beside them."""
    left_out = f", {quality.unmeasured} without characters left out" if quality.unmeasured else ""
    facts = [("texts", f"{quality.samples.texts}{left_out}; real text: {_counted(quality.real.texts, 'window')}")]
    for (name, given), (_, real) in zip(quality.samples.named(), quality.real.named(), strict=True):
        facts.append((name, f"{_measured(given.value, given.error)}; real text: {_measured(real.value, real.error)}"))
    return facts


def of_bench(measured: Measurements | Profile) -> Facts:
    """Measurements of this machine, or where the time of a forward goes."""
    from fastsedd.bench import Profile

    if isinstance(measured, Profile):
        inside = sum(measured.parts.values())
        lines = [(part, f"{ms:.2f} ms, {ms / inside:.0%} of the kernels' time") for part, ms in measured.parts.items()]
        return [*lines, ("forward", f"{measured.forward:.2f} ms, one text of {measured.length} tokens")]
    lines = [
        ("CPU", f"{measured.cpu} ({measured.isa}), {measured.threads} threads"),
        ("peak", f"{measured.peak_gflops:.0f} GFLOP/s, multiply-adds in registers"),
        ("bandwidth", f"{measured.bandwidth_gbs:.1f} GB/s, reading 64 MiB"),
    ]
    for layer in measured.layers:
        name = f"{layer.tokens} x {layer.inputs} -> {layer.outputs}"
        speed = f"{layer.gflops:.0f} GFLOP/s, {layer.of_peak:.0%} of the peak"
        lines.append((name, f"{speed}, {layer.numpy_over_ours:.2f} times NumPy's speed"))
    return [*lines, ("forward", f"{measured.forward_ms:.1f} ms, one text of {measured.forward_length} tokens")]


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB" if size >= 1 << 20 else f"{size / 1024:,.0f} KiB"


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def _estimate(value: float, error: float | None) -> str:
    return f"at most {_measured(value, error)}"


def _measured(value: float, error: float | None) -> str:
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def evaluation_object(evaluation: Evaluation, model: Model) -> dict[str, Any]:
    """A bound, for JSON."""
    estimates = ("nats", "nats_per_character", "bits", "perplexity")
    numbers = [name + suffix for name in estimates for suffix in ("", "_error")]
    counts = ("ends", "tokens", "characters", "left_out", "windows", "times", "seed")
    fields = {name: getattr(evaluation, name) for name in (*numbers, *counts)}
    return {"model": model.name, "dtype": model.dtype, **fields}
