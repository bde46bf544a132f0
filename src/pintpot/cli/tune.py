"""`pintpot tune`: a model learns from a file of examples inside a memory budget, and leaves adapters for peft."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pintpot.cli.options import COUNT, MACHINE, MODEL, SIZE, common, example, with_options
from pintpot.cli.terminal import QUIET, VERBOSE, Terminal
from pintpot.errors import UsageError, need

if TYPE_CHECKING:
    from pintpot.cli.terminal import Progress
    from pintpot.planner.plan import Plan
    from pintpot.trainer.loop import Event
    from pintpot.trainer.tune import Settings, Tuned

RATE = click.FloatRange(min=0, min_open=True)
LEARNING = (
    click.option(
        "-o", "--output", type=click.Path(path_type=Path), help="The folder for what is learned; needed to learn."
    ),
    click.option("--memory", **SIZE, help="All memory of the process, like 800MB or 2GiB.  [80% of what is free]"),
    click.option(
        "--method",
        type=click.Choice(["auto", "lora", "qlora", "full", "zeroth"]),
        default="auto",
        show_default=True,
        help="Adapters beside weights as they are, or beside weights in 4 bits (a file's own where it has such); every "
        "weight; or, of losses alone, without memory for gradients and in very many steps, every weight or adapters.",
    ),
    click.option(
        "--bits",
        type=click.Choice(["4", "5", "6", "8"]),
        default="4",
        show_default=True,
        callback=lambda _, __, value: int(value),
        help="Of a weight's code beside which qlora learns: more take more memory, and lie nearer to the model.",
    ),
    click.option("--steps", **COUNT, help="Steps to take.  [each example once]"),
    click.option("--epochs", type=RATE, metavar="N", help="How often each example is seen.  [1]"),
    click.option("--length", **COUNT, default=256, show_default=True, help="Tokens of a sequence."),
    click.option("--sequences", **COUNT, help="Sequences of a step, or pictures.  [4, or 16 pictures]"),
    click.option("--rank", **COUNT, default=8, show_default=True, help="Columns of an adapter."),
    click.option(
        "--alpha", type=RATE, metavar="X", default=16.0, show_default=True, help="Adapters count alpha / rank times."
    ),
    click.option(
        "--targets",
        metavar="NAMES",
        default="q,v",
        show_default=True,
        help="Weights with an adapter: of q, k, v, o, gate, up, down.",
    ),
    click.option(
        "--adapter",
        type=click.Choice(["lora", "mixlora", "mhr"]),
        default="lora",
        show_default=True,
        help="One beside a weight; experts of the feed-forward network, of which each token takes some; or several, "
        "of which each `task` that lines name mixes parts in its own way.",
    ),
    click.option("--experts", **COUNT, default=8, show_default=True, help="Adapters of mixlora and mhr."),
    click.option("--taken", **COUNT, default=2, show_default=True, help="Experts that a token takes, of mixlora."),
    click.option("--heads", **COUNT, default=4, show_default=True, help="Parts of an adapter, of mhr."),
    click.option(
        "--arithmetic",
        type=click.Choice(["auto", "float32", "bf16"]),
        default="auto",
        show_default=True,
        help="How products are computed; auto takes what is faster here.",
    ),
    click.option(
        "--learn",
        metavar="PART",
        default="",
        help="What of the model learns, settled before the first step: last:8 (blocks), attention, biases, norms, a "
        "role, a block like layers.3; with commas, and last:8/attention for what is both. auto: the last blocks, as "
        "many as fit.  [all]",
    ),
    click.option(
        "--activations",
        type=click.Choice(["auto", "kept", "recomputed", "written"]),
        default="auto",
        show_default=True,
        help="What a block needs on the way back is kept in memory, computed again, or written to disk and read ahead; "
        "auto takes for each block what is fastest inside the budget.",
    ),
    click.option(
        "--freeze",
        type=click.FloatRange(0, 1, max_open=True),
        metavar="SHARE",
        default=0.0,
        help="Of the blocks, those whose weights moved least are frozen for ten steps, and looked at again.  [none]",
    ),
    click.option(
        "--filter",
        type=click.IntRange(min=0),
        metavar="R",
        default=0,
        help="Convolutions that learn go back by the means of R x R places of their gradients.  [not so]",
    ),
    click.option(
        "--sparse",
        type=click.Choice(["2:4", "s-ste", "s-ste-mvue", "kept"]),
        help="Of full: two of every four weights are zero from the start, or become so while they learn, be it by "
        "gradients of which two of four are drawn; or what is zero already stays so.",
    ),
    click.option(
        "--distill",
        is_flag=True,
        help="What the model held after every block before it was changed is learned, too; best with --sparse.",
    ),
    click.option(
        "--learning-rate", type=RATE, metavar="X", help="The largest rate.  [2e-4; of zeroth 1e-6, or 5e-5 of adapters]"
    ),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "constant"]),
        default="cosine",
        show_default=True,
        help="What becomes of the rate after the warm-up.",
    ),
    click.option(
        "--warmup", type=click.IntRange(min=0), metavar="N", help="Steps in which the rate rises.  [5%, 20 at most]"
    ),
    click.option(
        "--weight-decay", type=click.FloatRange(min=0), metavar="X", default=0.0, show_default=True, help="AdamW's."
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        metavar="N",
        default=0,
        show_default=True,
        help="Of the order, of what is held out, and of fresh adapters.",
    ),
    click.option("--checkpoint", **COUNT, default=25, show_default=True, help="Steps between checkpoints."),
    click.option("--threads", **COUNT, help="Threads that compute.  [all cores]"),
)


@click.command(
    "tune",
    short_help="Teach a model examples inside a memory budget.",
    epilog=example(
        "pintpot tune model.gguf examples.jsonl --memory 800MB -o learned",
        "pintpot tune model.gguf examples.jsonl --method full --machine dgx_h100",
        'peft: PeftModel.from_pretrained(model, "learned")',
        "torchrun --nproc-per-node 2 -m pintpot tune model.gguf examples.jsonl -o learned",
    ),
)
@MODEL
@click.argument("data", type=click.Path(path_type=Path))
@with_options(*LEARNING, MACHINE)
@common
def tune_command(
    terminal: Terminal,
    model: str,
    data: Path,
    machine: str | None,
    **asked: Any,
) -> None:
    """Teach a model the answers of conversations, or texts: DATA has one JSON object a line, with `messages` or `text`.

    A model that tells pictures apart (a folder of transformers, or a recording) learns from lines with `image`, a path
    beside DATA, and `label`, the name or the number of a class.

    The plan comes first: memory by what holds it, time, and why the other ways lost. A start that was ended goes on
    where its last checkpoint is, with the same losses, when the same command is given again. What comes of it has a
    report, tuning.html: the curve of losses, and promised beside measured.

    With `--machine` the plan is that of a machine of the catalog, and nothing is learned. Where a graphics card stands
    beside the processor, updates may take turns between both.

    Under `torchrun`, processes share out the sequences of a step and the rows of the blocks' weights (DTensors of
    torch.distributed); each has the whole budget for itself, and what learns stays in RAM. The vocabulary and what is
    read from disk are not shared out; parts of a model, several adapters beside a weight, and `--method zeroth` are
    refused there.
    """
    import pintpot
    from pintpot.proof.learning_report import REPORT, write_learning_report
    from pintpot.trainer.ranks import joined
    from pintpot.trainer.receipt import receipt
    from pintpot.trainer.tune import Settings

    settings = Settings(**{field.name: asked.pop(field.name) for field in fields(Settings) if field.name in asked})
    if machine is not None:
        _planned(terminal, model, data, machine, settings, asked)
        return
    need(asked["output"] is not None, "-o names the folder for what is learned, and is missing", UsageError)
    with joined() as ranks, terminal.progress() as progress:
        tuned = pintpot.tune(
            model, data, settings=settings, progress=progress, ready=lambda plan: _ready(terminal, plan),
            happened=lambda event: _happened(terminal, progress, event), left=write_learning_report, ranks=ranks,
            **asked,
        )  # fmt: skip
    if ranks.number:
        return
    report = tuned.folder / REPORT
    if terminal.as_json:
        terminal.data({**receipt(tuned), "report": report})
    else:
        _show(terminal, tuned, report)


def _planned(
    terminal: Terminal, model: str, data: Path, machine: str, settings: Settings, asked: dict[str, Any]
) -> None:
    """What learning would take elsewhere."""
    from pintpot.trainer.ahead import plan_learning

    asked.pop("output")
    with terminal.progress() as progress:
        plan = plan_learning(model, data, machine, settings=settings, progress=progress, **asked)
    if terminal.as_json:
        click.echo(plan.dumps())
    else:
        _ready(terminal, plan)


def _ready(terminal: Terminal, plan: Plan) -> None:
    from pintpot.cli.plan_view import show_plan

    if not terminal.as_json and terminal.verbosity > QUIET:
        show_plan(plan, terminal.console(), everything=terminal.verbosity >= VERBOSE)


def _happened(terminal: Terminal, progress: Progress, event: Event) -> None:
    from pintpot.trainer.loop import Stepped

    if isinstance(event, Stepped):
        done, rate = event.step / event.steps, f"{event.tokens / event.seconds:.0f} {event.unit}/s"
        progress(done, f"learning: step {event.step} of {event.steps}, loss {event.loss:.4f}, {rate}")
    elif not terminal.as_json:
        right = "" if event.right is None else f", {event.right:.1%} told right,"
        terminal.say(f"after {event.step} steps: loss {event.loss:.4f}{right} on what was held out")


def _show(terminal: Terminal, tuned: Tuned, report: Path) -> None:
    """Promised beside measured."""
    from pintpot.cli.tables import pairs
    from pintpot.units import format_bytes, format_seconds

    cost, (first, *_, last) = tuned.plan.cost, tuned.asked
    promised = f"{format_seconds(cost.step_s.low)} to {format_seconds(cost.step_s.high)}"
    rows = [
        ("held out", f"{first[1]:.4f} nats a {tuned.train.unit} before, {last[1]:.4f} after {last[0]} steps"),
        *((("told right", f"{tuned.right[0][1]:.1%} before, {tuned.right[-1][1]:.1%} after"),) if tuned.right else ()),
        ("peak", f"{format_bytes(tuned.peak_bytes)}; promised {format_bytes(cost.memory_high)} at most"),
        (
            "each step",
            f"{format_seconds(tuned.step_s)}, {tuned.tokens_per_s:.0f} {tuned.train.units}/s; promised {promised}",
        ),
        ("in", str(tuned.folder)),
        ("report", str(report)),
    ]
    terminal.console().print(pairs(rows, title="learned"))
