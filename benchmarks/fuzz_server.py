"""Every address of a server fuzzed by its own OpenAPI document, for each kind of model: no answer is a 5xx.

    pip install schemathesis          (in an environment of its own; its command is found, or named)
    python benchmarks/fuzz_server.py [--examples 60] [--seed 1] [--only text] [--schemathesis PATH]

Tiny models with drawn weights, built as the tests build them: one that writes, one that reads, one that hears, one that
draws. Each is served by `pintpot serve` as users have it. schemathesis sends what the document allows and what it does
not, to each address, stage after stage (examples, coverage, fuzzing); a response of 500 or more is a failure, and so is
one that the document does not know. Afterwards the server must be well, hold no request, and be within its budget, and
its peak is told.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
PHASES = "examples,coverage,fuzzing"
CONTEXT = 256


def writes(place: Path) -> Path:
    """A language model."""
    from tiny import Tiny, write_hf

    shape = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=21)
    return write_hf(place / "writes", shape)


def reads(place: Path) -> Path:
    """An encoder of texts."""
    import transformers
    from published import WORDS, save, save_tokenizer

    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=24, pad_token_id=0,
    )  # fmt: skip
    folder = save(transformers.BertModel(config), place / "reads")
    save_tokenizer(folder)
    return folder


def hears(place: Path) -> Path:
    """A Whisper of several languages."""
    from test_speech import MANY, publish

    return publish(place / "hears", **MANY)


def draws(place: Path) -> Path:
    """A network that draws by a label."""
    import torch
    from diffusers import DDIMScheduler, DiTTransformer2DModel
    from test_diffusion import written

    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=1, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    return written(place / "draws", net, DDIMScheduler())


MODELS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "text": (writes, ("--memory", "400MB", "--context", str(CONTEXT))),
    "encoder": (reads, ("--memory", "900MB")),
    "speech": (hears, ("--memory", "900MB")),
    "drawing": (draws, ("--memory", "900MB", "--output", "3")),
}


@contextmanager
def server(model: Path, asked: tuple[str, ...]) -> Iterator[str]:
    """`pintpot serve`, and where it listens. Raises RuntimeError when it does not end as it should."""
    command = [sys.executable, "-m", "pintpot", "serve", str(model), *asked, "--name", "it", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None, "a pipe was asked for"
            lines = [running.stdout.readline()]
            while lines[-1] not in ("}\n", ""):
                lines.append(running.stdout.readline())
            yield json.loads("".join(lines))["url"]
            running.send_signal(signal.SIGTERM)
            if running.wait(60):
                raise RuntimeError(f"it ended with {running.returncode}")
        finally:
            running.kill()


def fuzz(url: str, program: str, examples: int, seed: int) -> tuple[bool, int, str]:
    """Whether nothing was wrong, how many requests were sent, and what was said."""
    command = [
        program, "run", f"{url}/openapi.json", "--url", url, "--checks", CHECKS, "--phases", PHASES,
        "--seed", str(seed), "--max-examples", str(examples), "--generation-database", "none",
        "--request-timeout", "120", "--no-color", "--continue-on-failure", "--suppress-health-check", "all",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    cases = re.search(r"(\d[\d,]*) generated", done.stdout)
    return done.returncode == 0, int(cases[1].replace(",", "")) if cases else 0, done.stdout


def state(url: str, what: str = "metrics.json") -> dict[str, Any]:
    """What the server tells of itself."""
    with urllib.request.urlopen(f"{url}/{what}", timeout=1200) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def main() -> int:
    """0 where nothing was wrong with any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=60, help="of each address in the fuzzing stage")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=MODELS, action="append")
    parser.add_argument("--schemathesis", default=shutil.which("schemathesis") or "schemathesis")
    how = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        for name in how.only or MODELS:
            make, asked = MODELS[name]
            with server(make(Path(place)), asked) as url:
                state(url, "plans.json")  # planned once, which may take longer than a fuzzer waits
                well, cases, said = fuzz(url, how.schemathesis, how.examples, how.seed)
                now = state(url)
            memory, left = now["memory"], now["running"] + now["waiting"]
            held = memory["peak"] <= memory["budget"] and not left and not now["error"]
            print(
                f"{name}: {cases} cases, {'none' if well else 'SOME'} went wrong; peak {memory['peak'] / 1e6:.0f} MB "
                f"of {memory['budget'] / 1e6:.0f}, {left} requests left, {now['requests']['accepted']} accepted",
                flush=True,
            )
            if not (well and held):
                wrong += 1
                print(said)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
