"""`pintpot serve`: many people at once over one model, through OpenAI's interface."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pintpot.cli.options import COUNT, TIME, common, example, planning
from pintpot.cli.terminal import Terminal

if TYPE_CHECKING:
    from pintpot.server.serving import Serving

KEY = "PINTPOT_API_KEY"
SERVING = (
    click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 is reached from everywhere."),
    click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."),
    click.option("--name", help="What clients call the model.  [its own name]"),
    click.option("--draft", metavar="PACK", help="A smaller pack with the same words, which guesses the next ones."),
    click.option("--api-key", envvar=KEY, help=f"What clients have to know; better given as {KEY}."),
    click.option("--waiting", **COUNT, default=256, show_default=True, help="Requests that may wait."),
    click.option("--answer-time", **TIME, default="10min", show_default=True, help="The longest that an answer takes."),
    click.option("--drain-time", **TIME, default="30s", show_default=True, help="For answers under way at the end."),
)


@click.command(
    "serve",
    short_help="Serve a model or a pack through OpenAI's interface.",
    epilog=example(
        "pintpot serve model.gguf --memory 2GB",
        "pintpot serve org/all-MiniLM-L6-v2 --memory 600MB          /v1/embeddings",
        "pintpot serve org/whisper-tiny          /v1/audio/transcriptions",
        "pintpot serve examples/digits          /v1/images/generations",
        "curl http://127.0.0.1:8080/v1/models",
        "then open http://127.0.0.1:8080 in a browser",
    ),
)
@click.argument("model_or_pack")
@planning(*SERVING)
@common
def serve_command(
    terminal: Terminal,
    model_or_pack: str,
    asked: dict[str, Any],
    host: str,
    port: int,
    name: str | None,
    draft: str | None,
    api_key: str | None,
    waiting: int,
    answer_time: float,
    drain_time: float,
) -> int:
    """Serve a pack, by folder or by its name in `pintpot list`, or a model (planned and packed first, once).

    Requests of many clients run side by side and never take more memory than the budget; what could not finish is
    refused. Ctrl-C or SIGTERM lets answers under way end first.
    """
    import pintpot

    if os.environ.get(KEY):
        del os.environ[KEY]  # children need not know it

    def ready(url: str, serving: Serving) -> None:
        card, plan = serving.served.card(), serving.session.plan
        if terminal.as_json:
            told = {"url": url, "model": serving.name, "context": card.get("context_length")}
            terminal.data({**told, "endpoints": list(serving.prepares), "plan": plan.to_json()})
            return
        for note in serving.session.notes:
            terminal.say(f"pintpot: {note}")
        if not api_key and not url.startswith(("http://127.", "http://[::1]")):
            terminal.say("pintpot: whoever reaches this machine may ask; --api-key lets in only those who know it")
        terminal.say(f"{serving.name} at {', '.join(url + path for path in serving.prepares)}, its page at {url}")
        terminal.say(f"{serving.served.told()}; Ctrl-C ends")

    with terminal.progress() as progress:
        pintpot.serve(
            model_or_pack, host=host, port=port, name=name, draft=draft, key=api_key or "", waiting=waiting,
            answer_s=answer_time, drain_s=drain_time, ready=ready, progress=progress, **asked,
        )  # fmt: skip
    return 0
