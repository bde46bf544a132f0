"""Many clients of one server: tokens a second, first token and time between tokens, beside llama.cpp and OpenVINO.

    python benchmarks/serving.py [--clients 1 4 16 64] [--mixes mixed system long] [--rounds 3] [--requests 2] [--alone]
        [--threads 2] [--memory 3GB]

SmolLM2, greedy, no answer ends early. `mixed`: short prompts (48 tokens) and long ones (512), 64 tokens out. `system`:
all prompts begin with the same 500 tokens. `long`: 8 clients with short prompts while prompts of 2,000 tokens arrive;
what matters is the time between tokens of the short ones, which may grow by what one chunk of a prompt takes and no
more; beside it the same clients with short prompts alone. Each client asks `--requests` times, one after the other.
Servers take turns, round by round. Before anything is timed, answers of many clients are compared with those of one.
llama.cpp's server is that of the wheel `xllamacpp`, with a slot for each client; OpenVINO has no server, and its
pipeline is called in its own process, beside Pintpot's engine likewise: the ratio that is wanted of OpenVINO is of
these two, and the one with HTTP on our side alone is told, too. `--alone` leaves both peers out.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from asking import Heard, closed_loop
from bench import ROOT, Case, Record, cli, parser, probed_machine, smollm2, whisper
from texts import shipped_text

from pintpot.errors import PintpotError, need
from pintpot.model.gguf import open_gguf
from pintpot.model.read import describe
from pintpot.model.tokens import Tokenizer, from_gguf

CONTEXT, OUT_TOKENS = 2560, 64
CHECKED = 8
SHORT, LONG, SYSTEM, OWN, LONGEST = 48, 512, 500, 30, 2000
DIRECT = "Pintpot, no HTTP"
SHORT_ALONE = "Pintpot, short ones alone"
CHUNK_S: list[float] = []
"""The longest chunk of each round of Pintpot's."""
PEERS = ROOT / "benchmarks" / "peers"


def prompts(mix: str, number: int) -> list[list[int]]:
    """Prompts of a mix, all different."""
    ids = Tokenizer.load(from_gguf(open_gguf(smollm2()))).encode(shipped_text())
    ids *= 1 + (LONGEST + SHORT) // len(ids)

    def cut(index: int, length: int) -> list[int]:
        first = (index * 131) % (len(ids) - length)
        return ids[first : first + length]

    if mix == "system":
        return [ids[:SYSTEM] + cut(index + 7, OWN) for index in range(number)]
    if mix == "short":
        return [cut(index, SHORT) for index in range(number)]
    if mix == "long":
        return [cut(index, LONGEST if index % 8 == 7 else SHORT) for index in range(number)]
    return [cut(index, LONG if index % 2 else SHORT) for index in range(number)]


def bodies(model: str, asked: list[list[int]], ends: list[int]) -> list[dict[str, Any]]:
    """Requests that never end early."""
    bias = {str(end): -100 for end in ends}
    shared = {"model": model, "max_tokens": OUT_TOKENS, "temperature": 0, "logit_bias": bias}
    return [shared | {"prompt": one} for one in asked]


@contextmanager
def pintpot_server(asked: Any, num_clients: int) -> Iterator[tuple[str, str]]:
    """`pintpot serve` for so many at once. Gives its address and the model's name."""
    command = cli(
        "serve", str(smollm2()), "--memory", asked.memory, "--context", str(CONTEXT), "--batch", str(num_clients),
        "--threads", str(asked.threads), "--port", "0", "--json",
    )  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            while process.stdout is not None and (line := process.stdout.readline()):
                lines.append(line)
                if line == "}\n":
                    break
            need(bool(lines), "pintpot serve has ended", PintpotError)
            told = json.loads("".join(lines))
            yield told["url"], told["model"]
        finally:
            process.terminate()


@contextmanager
def llama_server(asked: Any, num_clients: int) -> Iterator[tuple[str, str]]:
    """llama.cpp's server with a slot for each client."""
    python, env = _peers()
    script, numbers = str(PEERS / "serving_llama.py"), [str(CONTEXT), str(num_clients), str(asked.threads)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [python, script, str(smollm2()), *numbers], stdin=pipe, stdout=pipe, text=True, env=env
    ) as process:
        try:
            yield json.loads(process.stdout.readline() if process.stdout else "{}")["url"], "smollm2"
        finally:
            process.kill()


def _peers() -> tuple[str, dict[str, str]]:
    sys.path.insert(0, str(PEERS))
    from environment import PYTHON, environment, set_up

    set_up(native=False)
    return str(PYTHON), environment()


def by_http(server: Any, asked: Any, num_clients: int, wanted: list[dict[str, Any]]) -> list[Heard] | Any:
    """One round over HTTP: what was heard, and seconds."""
    with server(asked, num_clients) as (url, model):
        named = [body | {"model": model} for body in wanted]
        asyncio.run(closed_loop(url, [body | {"max_tokens": 2} for body in named[:2]], 1))
        found = asyncio.run(closed_loop(url, named, num_clients))
        if server is pintpot_server:
            with urllib.request.urlopen(f"{url}/metrics.json") as answer:
                CHUNK_S.append(json.load(answer)["chunk"]["longest_s"])
        return found


def by_openvino(asked: Any, num_clients: int, wanted: list[dict[str, Any]]) -> tuple[list[Heard], float]:
    """One round of OpenVINO's pipeline."""
    python, env = _peers()
    command = [python, str(PEERS / "serving_openvino.py"), str(smollm2()), str(asked.threads), "1"]
    return _by_lines(command, env, num_clients, wanted)


def directly(asked: Any, num_clients: int, wanted: list[dict[str, Any]]) -> tuple[list[Heard], float]:
    """One round of Pintpot's engine as its server drives it."""
    script = str(ROOT / "benchmarks" / "serving_direct.py")
    numbers = [str(CONTEXT), str(num_clients), str(asked.threads)]
    command = [sys.executable, script, str(smollm2()), asked.memory, *numbers]
    return _by_lines(command, None, num_clients, wanted)


def _by_lines(
    command: list[str], env: dict[str, str] | None, num_clients: int, wanted: list[dict[str, Any]]
) -> tuple[list[Heard], float]:
    """A process that answers what a line asks for: a short round to warm up, and the one that counts."""
    never = [int(token) for token in wanted[0]["logit_bias"]]
    given = {"prompts": [body["prompt"] for body in wanted], "outputs": [OUT_TOKENS] * len(wanted), "never": never}
    warm = {"prompts": given["prompts"][:2], "outputs": [2, 2], "never": never, "clients": 1}
    lines = "".join(json.dumps(one) + "\n" for one in (warm, given | {"clients": num_clients}))
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, env=env, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    heard = [Heard(200, str(one["tokens"]), one["pieces_s"], len(one["tokens"]), "length") for one in found["answers"]]
    return heard, found["seconds"]


def measure(mix: str, num_clients: int, asked: Any) -> Case:
    """All servers in turn."""
    contenders = {"Pintpot": partial(by_http, pintpot_server)}
    if not asked.alone:
        contenders |= {"llama.cpp": partial(by_http, llama_server), "OpenVINO": by_openvino, DIRECT: directly}
    tokenizer = Tokenizer.load(from_gguf(open_gguf(smollm2())))
    ends = list(tokenizer.eos_ids)
    number = max(CHECKED, asked.requests * num_clients)
    wanted = bodies("", prompts(mix, number), ends)
    alone, _ = by_http(pintpot_server, asked, num_clients, wanted[:CHECKED])
    found: dict[str, list[Any]] = {name: [] for name in contenders}
    for turn in range(asked.rounds):
        for name, run in contenders.items():
            whisper(f"  {mix}, {num_clients} clients, round {turn + 1}, {name}")
            heard, seconds = run(asked, num_clients, wanted)
            failed = [one.error for one in heard if one.status != 200 or one.num_tokens != OUT_TOKENS]
            need(not failed, f"{name}: {len(failed)} answers failed: {failed[:1]}", PintpotError)
            found[name].append(_sample(mix, heard, seconds))
            if name in ("Pintpot", DIRECT):
                words = [one.text if name == "Pintpot" else tokenizer.decode(json.loads(one.text)) for one in heard]
                same = [one == other.text for one, other in zip(words, alone, strict=False)]
                need(all(same), f"{same.count(False)} of {len(same)} answers differ from those alone", PintpotError)
    if mix == "long":
        short = bodies("", prompts("short", number), ends)
        found[SHORT_ALONE] = [
            _sample("short", *by_http(pintpot_server, asked, num_clients, short)) for _ in range(asked.rounds)
        ]
    return {"rounds": found, "chunk_s": max(CHUNK_S)}


def _sample(mix: str, heard: list[Heard], seconds: float) -> dict[str, Any]:
    gaps = [
        after - before
        for index, one in enumerate(heard)
        if mix != "long" or index % 8 != 7
        for before, after in zip(one.pieces_s, one.pieces_s[1:], strict=False)
    ]
    first = [one.pieces_s[0] for one in heard]
    tokens = sum(one.num_tokens for one in heard)
    return {"tokens_per_s": tokens / seconds, "first_s": _spread(first), "between_s": _spread(gaps)}


def _spread(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def show(record: Record, cases: dict[str, Case]) -> None:
    """One row for each server in each case, and the ratios that are wanted."""
    rows = []
    for key, case in cases.items():
        speeds = {}
        for name, rounds in case["rounds"].items():
            speeds[name] = statistics.median(one["tokens_per_s"] for one in rounds)
            first, between = ([statistics.median(one[what][at] for one in rounds) for at in (0, 1)]
                              for what in ("first_s", "between_s"))  # fmt: skip
            rows.append((key, name, f"{speeds[name]:.0f}", *(f"{1e3 * one:.0f}" for one in (*first, *between))))
        if key.startswith("long"):
            by_name = {name: [one["between_s"][1] for one in rounds] for name, rounds in case["rounds"].items()}
            more = statistics.median(by_name["Pintpot"]) - statistics.median(by_name[SHORT_ALONE])
            most, what = case["chunk_s"], f"{key}: p99 between words grows by, ms"
            record.verdict(what, f"{1e3 * more:.0f}", f"at most a chunk's {1e3 * most:.0f}", more <= most)
        for ours, name, wanted in (("Pintpot", "llama.cpp", 4.0), (DIRECT, "OpenVINO", 1.8)):
            if name in speeds and key.startswith("mixed, 16 "):
                ratio = speeds[ours] / speeds[name]
                record.verdict(f"{key}: {ours} beside {name}", f"{ratio:.2f}", f"{wanted}", ratio >= wanted)
    columns = ("case", "server", "tok/s", "first ms", "p99", "between ms", "p99")
    record.table(columns, rows, left=2)


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    options.add_argument("--mixes", nargs="+", choices=("mixed", "system", "long"), default=["mixed", "system", "long"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--requests", type=int, default=2, help="of each client")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--memory", default="6GB")
    options.add_argument("--alone", action="store_true", help="without peers")
    asked = options.parse_args()
    record = Record("serving", fresh=asked.fresh)
    probed_machine()  # a server plans by what is remembered of the machine
    model = describe(str(smollm2()))
    record.say(f"{model.name}, {OUT_TOKENS} tokens out, {asked.requests} requests a client, {asked.threads} threads\n")
    cases = {}
    for mix in asked.mixes:
        for number in [8] if mix == "long" else asked.clients:
            key = f"{mix}, {number} clients"
            cases[key] = record.case(f"{key}, {asked.alone}", partial(measure, mix, number, asked))
    show(record, cases)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
