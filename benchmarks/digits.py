"""The digits model at float, 8 and 4 bits: steps a second, likeness to the full model's pictures, and what they show.

    python benchmarks/digits.py [--images 200] [--steps 30] [--guidance 2] [--rounds 9] [--batch 20] [--fresh]

All draw the same labels from the same seeds. First the float pack's pictures are compared with those that diffusers'
own network and schedule draw, for no speed counts where answers are wrong. PSNR and cosine are those of the pictures
beside the float pack's; `as asked` is the share that a support vector machine of scikit-learn, trained on 4,000 real
digits, reads as the digit that was asked for (`examples/train_digits.py` says how well it reads real ones). Steps a
second are of one picture without guidance, packs and PyTorch in turn, medians of rounds of half a second each.
Needs diffusers, scikit-learn and mlxtend.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from bench import OUT, ROOT, Case, Record, code_digest, parser, probed_machine

from pintpot.api import describe
from pintpot.errors import PintpotError, need
from pintpot.machine.process import module_process_bytes
from pintpot.meter.clock import median
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.defaults import make_budget
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.question import Question
from pintpot.runtime.asking import Running
from pintpot.runtime.describing import describe as described_for
from pintpot.runtime.kinds import Arrays, Batch, Given, kept
from pintpot.runtime.module import ModuleSession, open_module
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

sys.path.insert(0, str(ROOT / "examples"))
FOLDER = ROOT / "examples" / "digits"
FLOAT = "float"
MEMORY, ROUND_S, TOLERANCE, ENOUGH = 2_000_000_000, 0.5, 2e-3, 0.9


def forms() -> dict[str, tuple[Any, ...]]:
    """The packs that are compared."""
    vectors = AsStored("vocabulary")
    rounded = {f"{bits} bits": (vectors, RoundToNearest("blocks", bits)) for bits in (8, 4)}
    with_rows = {f"{name}, int8 rows": (*steps, Int8Activations()) for name, steps in rounded.items()}
    return {FLOAT: (AsStored(),), **rounded, **with_rows}


def opened(model: Model, name: str, steps: tuple[Any, ...], machine: Any) -> ModuleSession:
    """A pack of these steps, made where it is missing."""
    budget = make_budget(model, machine, MEMORY, memory_bytes=MEMORY, degradation=1000.0)
    priors, torch_bytes = shipped_priors(model.kind), module_process_bytes(model.kind)
    plan = assess(Question(model, machine, budget, priors, torch_bytes=torch_bytes), steps)
    marked = "-".join(("digits", name.replace(", ", "-").replace(" ", "-"), model.digest, code_digest()))
    folder = OUT / "packs" / marked
    if not folder.exists():
        write_pack(model, plan, folder)
    return open_module(folder, machine)


def drawn(session: ModuleSession, batches: list[Batch]) -> np.ndarray:
    """Pictures of all batches, one after the other."""
    found = kept(session.plan.config)
    need(found is not None, "the pack has no kind", PintpotError)
    kind, about = found  # type: ignore[misc]
    parts: list[Arrays] = [kind.compute(about, Running(session), batch) for batch in batches]
    return np.concatenate([one["images"][: len(b.names)] for one, b in zip(parts, batches, strict=True)])


@torch.inference_mode()
def by_diffusers(batch: Batch) -> np.ndarray:
    """The same pictures by diffusers' network and schedule."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    net = DiTTransformer2DModel.from_pretrained(FOLDER / "transformer").eval()
    schedule = DDIMScheduler.from_pretrained(FOLDER / "scheduler")
    schedule.set_timesteps(int(batch.inputs["steps"][0]))
    x, labels = torch.from_numpy(batch.inputs["noise"]), torch.from_numpy(batch.inputs["labels"])
    both, guidance = torch.cat([labels, torch.full_like(labels, 10)]), float(batch.inputs["guidance"][0])
    for t in schedule.timesteps:
        one, free = net(torch.cat([x, x]), t.expand(len(both)), both).sample.chunk(2)
        x = schedule.step(free + guidance * (one - free), t, x).prev_sample
    return x.numpy()


def quality(images: int, steps: int, guidance: float, batch: int, machine: Any) -> dict[str, Case]:
    """What each pack draws, beside the float pack and read by the classifier."""
    from train_digits import reader

    model = described_for(str(FOLDER), None, {"batch": batch}, None)
    found = kept(model.parts[0].config)
    need(found is not None, "the digits have no kind", PintpotError)
    kind, about = found  # type: ignore[misc]
    labels = tuple(at % 10 for at in range(images))
    given = Given(labels=labels, seed=1, steps=steps, guidance=guidance)
    batches = list(kind.read(about, FOLDER, given))
    pictures = {}
    for name, chosen in forms().items():
        with opened(model, name, chosen, machine) as session:
            pictures[name] = drawn(session, batches)
    apart = float(np.abs(pictures[FLOAT][: len(batches[0].names)] - by_diffusers(batches[0])).max())
    need(apart < TOLERANCE, f"pictures differ from those of diffusers by {apart}", PintpotError)
    classifier, real = reader()
    cases: dict[str, Case] = {"answers": {"apart": apart, "real": real}}
    whole = Batch({}, tuple(map(str, labels)))
    for name, these in pictures.items():
        measures = kind.agreement(about, FOLDER, whole, {"images": pictures[FLOAT]}, {"images": these})
        read = classifier.predict(these.clip(-1, 1).reshape(images, -1))
        told = {one.what: one.mean for one in measures}
        cases[name] = {**told, "as_asked": float(np.mean(read == np.array(labels)))}
    return cases


def speed(rounds: int, machine: Any) -> dict[str, Case]:
    """Steps a second of one picture, all in turn."""
    from diffusers import DiTTransformer2DModel

    model = describe(FOLDER)
    found = kept(model.parts[0].config)
    need(found is not None, "the digits have no kind", PintpotError)
    kind, about = found  # type: ignore[misc]
    inputs = {name: torch.from_numpy(one) for name, one in kind.examples(about).items()}
    net = DiTTransformer2DModel.from_pretrained(FOLDER / "transformer").eval()
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack, torch.inference_mode():
        called: dict[str, Callable[[], object]] = {"PyTorch": lambda: net(**inputs)}
        for name, chosen in forms().items():
            session = stack.enter_context(opened(model, name, chosen, machine))
            called[name] = lambda session=session: session(**inputs)
        for _ in range(rounds + 1):
            for name, call in called.items():
                seconds.setdefault(name, []).append(one_round(call))
    return {name: {"steps_per_s": 1 / median(found[1:]), "rounds": found[1:]} for name, found in seconds.items()}


def one_round(call: Callable[[], object]) -> float:
    """The median of calls for half a second."""
    found, end = list[float](), time.perf_counter() + ROUND_S
    while time.perf_counter() < end or len(found) < 3:
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return median(found)


def main() -> int:
    made = parser(__doc__)
    for name, value in (("--images", 200), ("--steps", 30), ("--rounds", 9), ("--batch", 20)):
        made.add_argument(name, type=int, default=value)
    made.add_argument("--guidance", type=float, default=2.0)
    asked = made.parse_args()
    record = Record("digits", fresh=asked.fresh)
    machine = probed_machine()
    key = f"{asked.images} images, {asked.steps} steps, guidance {asked.guidance:g}"
    found = record.case(key, lambda: quality(asked.images, asked.steps, asked.guidance, asked.batch, machine))
    rates = record.case(f"speed, {asked.rounds} rounds", lambda: speed(asked.rounds, machine))
    record.say(f"{key}; from diffusers' own pictures {found['answers']['apart']:.2g} apart at most")
    record.say(f"the classifier reads {found['answers']['real']:.1%} of 1,000 real digits that it never saw")
    rows = []
    for name in ("PyTorch", *forms()):
        rate, drawn_ = rates[name]["steps_per_s"], found.get(name)
        likeness = ("", "", "") if drawn_ is None else told(name, drawn_)
        rows.append((name, f"{rate:.1f}", f"{rate / rates['PyTorch']['steps_per_s']:.2f}", *likeness))
    record.table(("", "steps/s", "over PyTorch", "PSNR, dB", "cosine", "as asked"), rows)
    for name in (FLOAT, "8 bits"):
        share = found[name]["as_asked"]
        record.verdict(f"{name}: digits as asked", f"{share:.1%}", f"{ENOUGH:.0%}", share > ENOUGH)
    return record.finish()


def told(name: str, found: Case) -> tuple[str, str, str]:
    """Likeness to the float pack's pictures, which are themselves, and what they show."""
    share = f"{found['as_asked']:.1%}"
    if name == FLOAT:
        return "", "", share
    return f"{found['PSNR of images']:.1f}", f"{found['cosine of images']:.4f}", share


if __name__ == "__main__":
    raise SystemExit(main())
