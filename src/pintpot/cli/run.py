"""`pintpot run`: an answer, or a conversation, and at its end what was promised and measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pintpot.cli.options import COUNT, ROUNDED_ON, common, example, planning
from pintpot.cli.terminal import Terminal
from pintpot.errors import BadInput, BadPack, Interrupted, UsageError, need

if TYPE_CHECKING:
    from pintpot.runtime.module import ModuleSession
    from pintpot.runtime.session import Session

SPEAKING = (
    click.option(
        "-p", "--text", "texts", multiple=True, help="The prompt; of encoders and classifiers, several texts."
    ),
    click.option(
        "--image", "images", multiple=True, type=click.Path(path_type=Path), help="A picture, for models that see."
    ),
    click.option(
        "--audio", "audios", multiple=True, type=click.Path(path_type=Path), help="A WAV file, for models that hear."
    ),
    click.option("--label", "labels", multiple=True, type=click.IntRange(min=0), help="What to draw, by its number."),
    click.option("--guidance", metavar="X", type=click.FloatRange(0, 100), help="How much the label counts.  [1]"),
    click.option(
        "-o", "--out", metavar="FILE", type=click.Path(path_type=Path), help="Where a drawing or --batch answers go."
    ),
    click.option("--prompt-file", type=click.Path(), help="A file that holds the prompt; - is standard input."),
    click.option("--calibration-text", **ROUNDED_ON),
    click.option("--system", help="What the model is told before the conversation."),
    click.option("--raw", is_flag=True, help="Continue the text as it stands, without the chat template."),
    click.option("--max-tokens", **COUNT, default=256, show_default=True, help="The longest answer."),
    click.option(
        "--temperature", metavar="X", type=click.FloatRange(0, 100), help="0 takes the likeliest word.  [0.7]"
    ),
    click.option("--top-k", metavar="N", type=click.IntRange(min=0), help="Only the k likeliest words; 0 is all.  [0]"),
    click.option(
        "--top-p",
        metavar="X",
        type=click.FloatRange(0, 1, min_open=True),
        help="Only the likeliest with this mass.  [0.95]",
    ),
    click.option(
        "--min-p", metavar="X", type=click.FloatRange(0, 1), help="Only words this likely beside the likeliest.  [0]"
    ),
    click.option(
        "--repetition-penalty", metavar="X", type=click.FloatRange(0, 10, min_open=True), help="1 changes nothing.  [1]"
    ),
    click.option("--seed", metavar="N", type=click.IntRange(0, 2**64 - 1), help="The same seed, the same answer.  [0]"),
    click.option("--stop", multiple=True, help="End the answer at this text; may be given several times."),
)
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


@click.command(
    "run",
    short_help="Run a pack or a model: an answer or a conversation.",
    epilog=example(
        'pintpot run model.gguf --memory 300MB -p "Why is the sky blue?"',
        "cat question.txt | pintpot run packed --temperature 0",
        "pintpot run packed          a conversation; /help tells its commands",
        "pintpot run packed --batch asked.jsonl          each line a request; its answer goes to asked.answers.jsonl",
        "pintpot run org/dinov2-small --image cat.png --json",
        "pintpot run org/whisper-tiny --audio talk.wav",
        "pintpot run examples/digits --label 7 --seed 1 --steps 30 -o seven.png",
        'pintpot run org/SmolVLM-256M-Instruct --image cat.png -p "What is this?"',
    ),
)
@click.argument("model_or_pack")
@planning(*SPEAKING)
@common
def run_command(
    terminal: Terminal,
    model_or_pack: str,
    asked: dict[str, Any],
    texts: tuple[str, ...],
    images: tuple[Path, ...],
    audios: tuple[Path, ...],
    labels: tuple[int, ...],
    guidance: float | None,
    out: Path | None,
    prompt_file: str | None,
    calibration_text: Path | None,
    raw: bool,
    system: str | None,
    **speaking: Any,
) -> int:
    """Run a pack, by folder or by its name in `pintpot list`, or a model (planned and packed first, once).

    Without a prompt and with a terminal on both sides it is a conversation. Words go to stdout, all else to stderr.
    Models that see or read without writing answer about every --image or --text: classes, boxes, vectors; those
    that hear write down every --audio, those that draw draw every --label.
    """
    asked |= {} if calibration_text is None else {"text": calibration_text}
    if isinstance(asked.get("batch"), Path):
        from pintpot.cli.batch import answer_file

        return answer_file(terminal, model_or_pack, asked, out)
    from pintpot.cli.draw import draw_by_pipeline, has_decoder

    if has_decoder(model_or_pack):
        from pintpot.cli.ask import given_of

        given = given_of((), texts, labels, seed=speaking["seed"], guidance=guidance)
        return draw_by_pipeline(terminal, model_or_pack, asked, given, out)
    seen: tuple[Path, ...] = ()
    if images and _writes(model_or_pack, asked, len(images)):
        seen, images = images, ()
    if images or audios or labels or len(texts) > 1:
        from pintpot.cli.ask import ask_module, given_of

        given = given_of(images, texts, labels, audios=audios, seed=speaking["seed"], guidance=guidance)
        return ask_module(terminal, model_or_pack, asked, given, out)
    need(out is None and guidance is None, "--out and --guidance belong to what is drawn", UsageError)
    text = texts[0] if texts else None
    need(not (raw and system), "--system belongs to a chat template, and --raw leaves that out", UsageError)
    prompt = _prompt(text, prompt_file)
    need(prompt is not None or not (terminal.as_json or raw), "--json and --raw need a prompt: -p TEXT", UsageError)
    need(not (raw and seen), "--image belongs to a chat template, and --raw leaves that out", UsageError)
    answer = _answering(speaking, raw, system, seen)
    if prompt is not None:
        return _ask(terminal, model_or_pack, asked, prompt, answer)
    from pintpot.cli.talk import converse

    with _open(terminal, model_or_pack, asked) as session:
        if callable(session):
            raise UsageError(f"{model_or_pack} is no model to talk with; give it something: --text or --image")
        converse(session, terminal, answer)
    return 0


def _writes(model_or_pack: str, asked: dict[str, Any], num_images: int) -> bool:
    """Whether it answers in words about images; what is planned then has room for so many."""
    from pintpot.model.read import describe
    from pintpot.packer.raw import is_pack, pack_named

    if is_pack(pack_named(model_or_pack)):
        return not pack_is_module(model_or_pack)
    try:
        writes = describe(model_or_pack).kind == "vlm"
    except BadInput:
        return False
    if writes and not asked.get("images"):
        asked["images"] = num_images
    return writes


def pack_is_module(pack: str) -> bool:
    """Whether a pack takes tensors, or pictures alone, and writes no text."""
    from pintpot.packer.raw import pack_named, read_raw

    return read_raw(pack_named(pack)).get("tokenizer") is None


Answer = Callable[["Session", str], Iterator[str]]


def _answering(speaking: dict[str, Any], raw: bool, system: str | None, images: tuple[Path, ...] = ()) -> Answer:
    """What turns a prompt into an answer, with everything that was asked about how."""
    from pintpot.runtime.request import Sampling

    given = {key: speaking[key] for key in _SAMPLING if speaking[key] is not None}
    shared: dict[str, Any] = {
        "sampling": Sampling(**given),
        "max_tokens": speaking["max_tokens"],
        "stop": tuple(speaking["stop"]),
    }
    need(all(shared["stop"]), "a --stop text is empty", UsageError)
    if raw:
        return lambda session, prompt: session.complete(prompt, **shared)
    return lambda session, prompt: session.chat(prompt, images=images, system=system, **shared)


@contextmanager
def _open(terminal: Terminal, model_or_pack: str, asked: dict[str, Any]) -> Iterator[Session | ModuleSession]:
    import pintpot

    with terminal.progress() as progress:
        opened = pintpot.run(model_or_pack, progress=progress, **asked)
    with opened as session:
        for note in session.notes:
            terminal.say(f"pintpot: {note}")
        yield session


def _ask(
    terminal: Terminal,
    model_or_pack: str,
    asked: dict[str, Any],
    prompt: str,
    answer: Answer,
    last: bool = False,
) -> int:
    """One answer. Where the first pass over a kept pack finds it damaged, it is opened again, which packs it anew."""
    with _open(terminal, model_or_pack, asked) as session:
        if callable(session):
            from pintpot.cli.ask import answer_text

            return answer_text(terminal, session, prompt)
        try:
            return _once(session, terminal, answer(session, prompt))
        except BadPack:
            from pintpot.packer.raw import pack_named

            was_named = session.folder == pack_named(model_or_pack).resolve()
            if last or was_named or session.summary().num_tokens:
                raise
    return _ask(terminal, model_or_pack, asked, prompt, answer, last=True)


def _once(session: Session, terminal: Terminal, pieces: Iterator[str]) -> int:
    from pintpot.cli.speak import cancelling, first, reading, speak

    with cancelling(session) as interrupted:
        with reading(session, terminal):
            begun = first(pieces)
        said = "".join(begun) if terminal.as_json else speak(begun)
    summary = session.summary()
    if terminal.as_json:
        told = {"text": said, "cut_off": bool(summary.cut_off), "summary": summary, "notes": session.notes}
        terminal.data({**told, "plan": session.plan.to_json()})
    else:
        if summary.cut_off:
            terminal.say(f"pintpot: {summary.cut_off}")
        terminal.say(str(summary))
    return Interrupted.exit_code if interrupted() else 0


def _prompt(text: str | None, prompt_file: str | None) -> str | None:
    """The prompt, from wherever it comes; None for a conversation. Raises UsageError, BadInput."""
    need(
        text is None or prompt_file is None, "the prompt comes from -p or from --prompt-file, not from both", UsageError
    )
    if text is None and prompt_file is None:
        if sys.stdin.isatty():
            need(sys.stdout.isatty(), "a conversation needs a terminal to speak on; give a prompt with -p", UsageError)
            return None
        prompt_file = "-"
    found = text if text is not None else _read(str(prompt_file))
    need(bool(found.strip()), "the prompt is empty; give one with -p TEXT", UsageError)
    return found


def _read(path: str) -> str:
    """Text of a file or of standard input, without the newline at its end."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode("utf-8").removesuffix("\n")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
