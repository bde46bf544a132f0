"""How much worse each change makes a small trained model's answers: makes `src/pintpot/planner/priors.json`.

    python benchmarks/priors.py [--texts 12] [--length 256] [--output FILE]

For every key of the table (weights of the blocks or of the vocabulary in each format, activations and cache in 8 bits,
a cache window) that one change is made to SmolLM2-135M-Instruct and nothing else, and the mean KL divergence of the
next word from the unchanged model is taken, in nats per token, over pieces of the shipped text and of Wikipedia. The
arithmetic is the numpy reference's, in float32. `activation/int8-int8x2` is about the second halves of the texts, whose
rows have two planes, with the keys and values of first halves whose rows had one: answers after a prompt; likewise
`activation/bfloat16-int8x2` and `activation/bfloat16-int8`.

The model's blocks come out of a 4-bit file, so formats whose grid holds those 16 levels would change nothing. They are
taken off that grid first without changing what is computed: columns of each matrix are multiplied by drawn factors
near 1, and what makes their inputs is divided by the same (Xiao et al. 2022, arXiv:2211.10438, for other ends). The
embedding, in 8 bits, is moved by a drawn part of its own rounding. What the formats do to the weights as they lie in
the file is printed beside.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench import ROOT, Case, Record, parser, smollm2
from numpy.typing import NDArray
from texts import token_texts

from pintpot.budget import Workload
from pintpot.contract.form import ActivationForm, CacheForm, matches, source_form
from pintpot.errors import PintpotError, need
from pintpot.formats.convert import encode
from pintpot.formats.source import decode
from pintpot.formats.tiles import unpack
from pintpot.kernels.reference import Call, run
from pintpot.kernels.reference.linear import rms_norm, round_rows
from pintpot.meter.agreement import Comparison
from pintpot.model.gguf import open_gguf
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.model.tokens import Tokenizer, from_gguf
from pintpot.nets import family
from pintpot.nets._rope import rope_tables
from pintpot.program.ops.linear import PLANES
from pintpot.program.spec import Program, Work
from pintpot.proof.reference import hidden_states

Floats = NDArray[np.float32]
Weights = dict[str, Floats]

TARGET = ROOT / "src" / "pintpot" / "planner" / "priors.json"
FORMATS = ("sym8", "sym6", "aff6", "sym5", "aff5", "sym4", "aff4", "sym3", "aff3", "sym2", "aff2")
FORMATS += ("nf4", "nf4_32", "mxfp4", "nvfp4")
LOWER, UPPER = 0.1, 2.0
RULE = (
    f"low = {LOWER:g} x the lower end, high = {UPPER:g} x the upper end of the 95% interval of the mean over texts. "
    "One very small model was measured: others of its kind may lose twice as much, large ones lose several times less "
    "(Frantar et al. 2022, arXiv:2210.17323). The low of a window is 0, for a text inside it loses nothing; its high "
    "is over the positions that a window of 256 hides something from, in texts of 512."
)
SCALE = 0.2
"""Columns are multiplied by up to exp(0.2), or divided by it."""
WINDOW, SINKS = 256, 4
"""Half of a context of 512, as the planner offers it."""
ANSWERS = tuple(f"activation/{rows}" for rows in ("int8-int8x2", "bfloat16-int8x2", "bfloat16-int8"))
COMBINED = ("blocks/sym5", "vocabulary/sym6", "activation/int8", "cache/sym8c")
EXACT_NATS = 1e-5
FLOAT_CACHE, FLOAT_ROWS = CacheForm("f32"), ActivationForm()


@dataclass(frozen=True)
class Change:
    """What is changed: weights of `target` to `format`, the activations, or the cache."""

    target: str = ""
    format: str = ""
    activation: ActivationForm = FLOAT_ROWS
    cache: CacheForm = FLOAT_CACHE

    @classmethod
    def of(cls, *keys: str) -> tuple[Change, ...]:
        """One change for each key of the table; those of activations and cache are joined to the last."""
        activation, cache, weights = FLOAT_ROWS, FLOAT_CACHE, []
        for key in keys:
            kind, _, name = key.partition("/")
            if kind == "activation":
                prefill, _, decode = name.partition("-")
                activation = ActivationForm(prefill, decode or prefill)
            elif key == "cache/window":
                cache = replace(cache, window=WINDOW, sinks=SINKS)
            elif kind == "cache":
                cache = replace(cache, format=name)
            else:
                weights.append(cls(kind, name))
        return (*weights, cls(activation=activation, cache=cache))


def rounded(weights: Weights, change: Change) -> Weights:
    """The weights with those of the change's target rounded to its format."""
    found = dict(weights)
    for name, values in weights.items():
        if change.format and values.ndim == 2 and matches(change.target, name):
            found[name] = unpack(encode(values, change.format), change.format, *values.shape)
    return found


class Answers:
    """The model over some texts, T tokens in all: its states before the head, and its divergence from itself."""

    def __init__(self, model: Model, weights: Weights, texts: list[list[int]]) -> None:
        self._part, self._model, self._texts = model.part("language"), model, texts
        self._weights = weights
        self._states = self.states(())

    def states(self, changes: tuple[Change, ...]) -> Floats:
        """Float32 [T, D] after the final norm, with these changes."""
        weights = self._changed(changes)
        how = changes[-1] if changes else Change()
        kinds = (how.activation.prefill, how.activation.decode)
        early, late = (self._work(how, kind).stage("prefill").programs[0] for kind in kinds)
        program = early
        pages = program.bound("context") // how.cache.page_tokens
        memory: dict[str, Any] = {**weights, **rope_tables(self._part.config, program.bound("context"))}
        stop = next(i for i, op in enumerate(program.ops) if op.kind == "select")
        call = _call(self._texts, pages)
        is_early = call.positions < len(self._texts[0]) // 2
        for index in range(stop):
            made = {} if early == late else _made(late, index, memory, call)
            _step(program, index, memory, call, pages * len(self._texts))
            for name, values in made.items():
                memory[name] = np.where(is_early[:, None], memory[name], values)
        final = memory[str(program.ops[stop].read("x"))]
        return np.asarray(rms_norm(final, weights["norm"], self._part.config["rms_norm_eps"]), np.float32)

    def divergence(self, changes: tuple[Change, ...], first: int = 0) -> Case:
        """Divergence of the changed model, over positions of each text from `first` on."""
        states, head = self.states(changes), self._changed(changes).get("head", self._changed(changes)["embed"])
        planes = PLANES[changes[-1].activation.decode] if changes else 0
        states = np.asarray(round_rows(states, planes), np.float32) if planes else states
        own = self._weights.get("head", self._weights["embed"])
        comparison, length = Comparison(), len(self._texts[0])
        for at in range(0, len(states), length):
            rows = slice(at + first, at + length)
            comparison.add(self._states[rows] @ own.T, states[rows] @ head.T)
        found = comparison.result()
        kl = found.kl
        return {"low": kl.low, "mean": kl.mean, "high": kl.high, "p99": found.kl_p99, "top1": found.top1}

    def _changed(self, changes: tuple[Change, ...]) -> Weights:
        weights = self._weights
        for change in changes:
            weights = rounded(weights, change) if change.format else weights
        return weights

    def _work(self, how: Change, activation: str) -> Work:
        """The work with all rows met in one way."""
        length, alike = len(self._texts[0]), ActivationForm(activation, activation)
        form = replace(source_form(self._model), cache=how.cache, activation=alike, chunk=length)
        workload = Workload(context=-(-length // 32) * 32, batch=len(self._texts))
        return family(self._part.family).work(self._part.config, form, workload)


def _call(texts: list[list[int]], pages: int) -> Call:
    length, number = len(texts[0]), len(texts)
    tables = tuple(tuple(range(i * pages, (i + 1) * pages)) for i in range(number))
    positions = np.tile(np.arange(length), number)
    return Call(np.concatenate(texts), positions, np.repeat(np.arange(number), length), (), tables)


def _made(program: Program, index: int, memory: dict[str, Any], call: Call) -> dict[str, Any]:
    """What an op writes if it is linear, by name; memory stays as it is."""
    if program.ops[index].kind != "linear":
        return {}
    aside = dict(memory)
    run(program, aside, call, index, index + 1)
    return {name: aside[name] for _, name in program.ops[index].writes}


def _step(program: Program, index: int, memory: dict[str, Any], call: Call, pages: int) -> None:
    """One op; a layer's cache is there while its attention runs, and what no later op reads is dropped."""
    op = program.ops[index]
    for role, name in op.reads:
        if role in ("k", "v"):
            memory[name] = np.zeros((pages, *program.shape(name)[1:]), np.float32)
    run(program, memory, call, index, index + 1)
    later = {name for other in program.ops[index + 1 :] for _, name in other.reads}
    for _, name in (*op.reads, *op.writes):
        if name not in later and program.by_name[name].life != "pack" and program.by_name[name].holder != "tables":
            memory.pop(name, None)


def read_weights(model: Model) -> Weights:
    """Every weight of the file as float32."""
    found: Weights = {}
    with Store(model) as store:
        for weight in model.part("language").weights():
            values = decode(store.read(weight), weight.dtype, weight.shape[-1])
            found[weight.name] = values if len(weight.shape) == 2 else values.reshape(-1)
    return found


def off_grid(weights: Weights, config: Any, seed: int = 0) -> Weights:
    """Blocks that compute the same with other columns, and an embedding moved within its own rounding."""
    rng, found = np.random.default_rng(seed), dict(weights)

    def factors(number: int) -> Floats:
        return np.exp(rng.uniform(-SCALE, SCALE, number)).astype(np.float32)

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        for norm, roles in (("attn_norm", ("q", "k", "v")), ("ffn_norm", ("gate", "up"))):
            by = factors(config["hidden_size"])
            found[at + norm] = found[at + norm] / by
            for role in roles:
                found[at + role] = found[at + role] * by
        for makes, takes, groups in (("v", "o", heads // kv_heads), ("up", "down", 1)):
            by = factors(len(found[at + makes]))
            found[at + makes] = found[at + makes] / by[:, None]
            # Each key head serves some query heads, one after the other.
            wide = np.repeat(by.reshape(kv_heads, -1), groups, axis=0).reshape(-1) if makes == "v" else by
            found[at + takes] = found[at + takes] * wide
    embed = found["embed"]
    step = np.abs(embed.reshape(len(embed), -1, 32)).max(axis=2, keepdims=True) / 127
    moved = rng.uniform(-0.5, 0.5, (len(embed), step.shape[1], 32)).astype(np.float32) * step
    found["embed"] = embed + moved.reshape(embed.shape)
    return found


def keys() -> tuple[str, ...]:
    """Every key of the table but the window's."""
    weights = tuple(f"{target}/{name}" for target in ("blocks", "vocabulary") for name in FORMATS)
    prompts = tuple(f"activation/{rows}" for rows in ("int8", "int8x2", "bfloat16"))
    return (*weights, *prompts, *ANSWERS, "cache/sym8c")


def span(key: str, found: Case) -> list[float]:
    """Low and high of the table, two digits each."""
    low = 0.0 if key == "cache/window" else LOWER * found["low"]
    return [float(f"{value:.2g}") for value in (low, UPPER * found["high"])]


def check(model: Model, weights: Weights, moved: Weights, texts: list[list[int]], record: Record) -> None:
    """Raises unless this arithmetic is the proof's own reference, and moving columns changed nothing."""
    answers = Answers(model, weights, texts)
    (wanted,) = hidden_states(model, texts)
    error = float(np.abs(answers.states(()) - wanted).max() / np.abs(wanted).max())
    need(error < 1e-4, f"states are {error:.1e} away from the reference's", PintpotError)
    same_head = {**moved, "embed": weights["embed"]}
    nothing = Answers(model, weights, texts).divergence(())["mean"]
    other = Answers(model, same_head, texts)
    states, head = other.states(()), weights["embed"]
    comparison = Comparison()
    comparison.add(wanted @ head.T, states @ head.T)
    changed = comparison.result().kl.mean
    record.say(f"states against the reference of proofs: {error:.1e}; the model against itself: {nothing:.1e} nats;")
    record.say(f"against itself with other columns: {changed:.1e} nats")
    need(nothing < EXACT_NATS and changed < EXACT_NATS, "moving columns changed the answers", PintpotError)


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--texts", type=int, default=12)
    options.add_argument("--length", type=int, default=256, help="tokens of a text")
    options.add_argument("--output", type=Path, default=TARGET)
    asked = options.parse_args()
    record = Record("priors", fresh=asked.fresh)
    model = describe(str(smollm2()))
    tokenizer = Tokenizer.load(from_gguf(open_gguf(smollm2())))
    texts = token_texts(tokenizer, asked.texts, asked.length)
    weights = read_weights(model)
    moved = off_grid(weights, model.part("language").config)
    check(model, weights, moved, texts[:1], record)
    record.say(f"{model.name}, {len(texts)} texts of {asked.length} tokens; nats per token\n")
    size = f"{asked.texts}x{asked.length}"
    lazy = _Lazy(model, moved, texts)
    begin = dict.fromkeys(ANSWERS, asked.length // 2)
    found = {
        key: record.case(f"{key} {size}", lambda k=key: lazy.divergence(k, first=begin.get(k, 0))) for key in keys()
    }
    long = _Lazy(model, moved, token_texts(tokenizer, max(4, asked.texts // 2), 2 * WINDOW))
    found["cache/window"] = record.case("cache/window", lambda: long.divergence("cache/window", first=WINDOW + SINKS))
    plain = _Lazy(model, weights, texts)
    stored = {
        key: record.case(f"as stored {key} {size}", lambda k=key: plain.divergence(k))
        for key in keys()
        if key.startswith("blocks/")
    }
    show(record, found, stored)
    spans = {key: span(key, case) for key, case in found.items()}
    together = record.case(f"together {size}", lambda: lazy.divergence(*COMBINED))
    least, most = (sum(spans[key][end] for key in COMBINED) for end in (0, 1))
    inside = least <= together["mean"] <= most
    record.verdict(f"{' + '.join(COMBINED)} together", f"{together['mean']:.4f}", f"{least:.4f} to {most:.4f}", inside)
    write(asked.output, model, spans)
    return record.finish()


class _Lazy:
    """Answers that are computed when a case first needs them."""

    def __init__(self, model: Model, weights: Weights, texts: list[list[int]]) -> None:
        self._make = lambda: Answers(model, weights, texts)
        self._made: Answers | None = None

    def divergence(self, *keys: str, first: int = 0) -> Case:
        if self._made is None:
            self._made = self._make()
        return self._made.divergence(Change.of(*keys), first)


def show(record: Record, found: dict[str, Case], stored: dict[str, Case]) -> None:
    """The table: each key with its interval, the span that comes of it, and what the file's own grid makes of it."""
    rows = []
    for key, case in found.items():
        low, high = span(key, case)
        beside = f"{stored[key]['mean']:.5f}" if key in stored else ""
        interval = (f"{case['low']:.5f}", f"{case['mean']:.5f}", f"{case['high']:.5f}")
        rows.append((key, *interval, f"{case['top1']:.1%}", f"{low:g}", f"{high:g}", beside))
    columns = ("change", "95% from", "mean", "to", "same word", "low", "high", "mean on the file's grid")
    record.table(columns, rows)
    record.say()


def write(path: Path, model: Model, spans: dict[str, list[float]]) -> None:
    """The table as the planner reads it."""
    head = {
        "command": "python benchmarks/priors.py",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "model": f"{model.name} (SmolLM2-135M-Instruct, blocks out of a 4-bit file moved off their grid)",
        "rule": RULE,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in spans.items()]
    body = ",\n".join([f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()])
    path.write_text("{\n" + body + ',\n "spans": {\n' + ",\n".join(lines) + "\n }\n}\n")


if __name__ == "__main__":
    sys.exit(main())
