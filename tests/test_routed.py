"""Several adapters beside a weight: losses and gradients of their formulas, prices, restarts, what is saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import Made, drawn_sequences, folder_of, made
from safetensors.torch import load_file
from tiny import Tiny, torch_model, write_hf

import pintpot
from pintpot.budget import Budget, Train, Workload
from pintpot.contract.routing import EXPERTS, HEADS, LORA_A, LORA_B, ROUTER, ROUTES, Routing
from pintpot.contract.training import TrainingForm
from pintpot.errors import UsageError
from pintpot.machine.null import null_machine
from pintpot.model.names import hf_name
from pintpot.model.read import describe
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.training import Asked, make_training_plan
from pintpot.techniques.adapt.low_rank import LowRank
from pintpot.techniques.adapt.mixture_of_adapters import MixtureOfAdapters
from pintpot.techniques.adapt.routed_heads import RoutedHeads
from pintpot.techniques.quantize.normal_float import NormalFloat
from pintpot.trainer.packing import NOT_LEARNED, Sequences
from pintpot.trainer.routed import of_task
from pintpot.trainer.tune import Settings

TINY = Tiny(family="qwen2", heads=4, kv_heads=2, tied=True)
TRAIN = Train(length=24, sequences=3, steps=4, held_out=1, evaluations=2)
EXPERT = Routing(EXPERTS, 4, 2, 0.3)
HEAD = Routing(HEADS, 3, heads=4, tasks=2)
MIXED = TrainingForm(4, 8.0, ("q", "v", "gate", "up", "down"), at_once=2, routing=EXPERT)
ROUTED = TrainingForm(4, 8.0, ("q", "v", "down"), at_once=2, routing=HEAD)
SHORT: dict[str, Any] = {"length": 48, "steps": 6, "rank": 4, "threads": 1}


def sequences(tasks: bool = False) -> Sequences:
    found = drawn_sequences(3, 24, 200)
    if not tasks:
        return found
    own = np.zeros_like(found.tokens)
    own[1], own[2] = 1, 1
    return replace(found, tasks=own, names=("a", "b"))


class Written:
    """transformers' model with the same adapters written out beside its modules, token by token where that is plain."""

    def __init__(self, folder: Path, ours: Made, tasks: np.ndarray | None) -> None:
        self.model, how = torch_model(folder), ours.form.training
        assert how is not None
        assert how.routing is not None
        self.how, self.routing, self.tasks = how, how.routing, tasks
        self.uneven: list[torch.Tensor] = []
        self.parameters = {name: one.clone().requires_grad_() for name, one in ours.learned.values.items()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for name in self.parameters:
            weight = name.removesuffix(LORA_A)
            experts = self.routing.kind == EXPERTS and weight.rpartition(".")[2] in ("gate", "up", "down")
            if name.endswith(LORA_A) and not experts:
                self.model.get_submodule(hf_name(weight).removesuffix(".weight")).register_forward_hook(
                    self.beside(weight)
                )
        if self.routing.kind == EXPERTS:
            for number, layer in enumerate(self.model.model.layers):
                layer.mlp.forward = self.network(f"layers.{number}.", layer.mlp)

    def beside(self, weight: str) -> Any:
        def added(_: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
            rows = args[0].reshape(-1, args[0].shape[-1])
            a, b = self.parameters[weight + LORA_A], self.parameters[weight + LORA_B]
            if weight + ROUTES not in self.parameters:
                return out + (rows @ a.T @ b.T * self.how.scale).view(out.shape)
            each = []
            for row, task in zip(rows, self.flat_tasks, strict=True):
                wanted = torch.sigmoid(self.parameters[weight + ROUTES][task])
                share = wanted / wanted.sum(dim=1, keepdim=True)
                heads = range(self.routing.heads)
                inner = sum(
                    share[h, e] * (part_of(a[e], h, self.routing.heads, 1) @ part_of(row, h, self.routing.heads, 0))
                    for h in heads for e in range(self.routing.count)
                )  # fmt: skip
                outer = [
                    sum(share[h, e] * part_of(b[e], h, self.routing.heads, 0) for e in range(self.routing.count))
                    @ inner
                    for h in heads
                ]
                each.append(torch.cat(outer) * self.how.scale)
            return out + torch.stack(each).view(out.shape)

        return added

    def network(self, at: str, mlp: Any) -> Any:
        own = {name.removeprefix(at): one for name, one in self.parameters.items() if name.startswith(at)}
        scale = self.how.scale

        def forward(x: torch.Tensor) -> torch.Tensor:
            rows, count = x.reshape(-1, x.shape[-1]), self.routing.count
            chances = torch.softmax(rows @ own["gate" + ROUTER].T, dim=-1)
            best, chosen = chances.topk(self.routing.chosen)
            share = best / best.sum(dim=-1, keepdim=True)

            def product(role: str, given: torch.Tensor, expert: int) -> torch.Tensor:
                inner = own[role + LORA_A][expert] @ given
                return getattr(mlp, f"{role}_proj").weight @ given + scale * (own[role + LORA_B][expert] @ inner)

            out = []
            for row, experts, parts in zip(rows, chosen.tolist(), share, strict=True):
                out.append(sum(
                    part * product("down", torch.nn.functional.silu(product("gate", row, e)) * product("up", row, e), e)
                    for e, part in zip(experts, parts, strict=True)
                ))  # fmt: skip
            used = torch.zeros(len(rows), count).scatter_add_(1, chosen, torch.ones(chosen.shape)) / self.routing.chosen
            likely = chances.view(*x.shape[:-1], count).mean(dim=1)
            self.uneven.append(count * (used.view(*x.shape[:-1], count).mean(dim=1) * likely).sum(dim=1).mean())
            return torch.stack(out).view(x.shape)

        return forward

    def losses(self, given: Sequences) -> torch.Tensor:
        self.uneven.clear()
        self.flat_tasks = (np.zeros_like(given.tokens) if given.tasks is None else given.tasks).flatten()
        logits = self.model(torch.from_numpy(given.tokens).long()).logits.float().flatten(0, 1)
        targets = torch.from_numpy(given.targets).long().flatten()
        asked = targets != NOT_LEARNED
        return torch.nn.functional.cross_entropy(logits[asked], targets[asked], reduction="none")


def part_of(value: torch.Tensor, head: int, heads: int, dim: int) -> torch.Tensor:
    width = value.shape[dim] // heads
    return value.narrow(dim, head * width, width)


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize(("how", "tasks"), [(MIXED, False), (ROUTED, True)], ids=["experts", "heads"])
def test_losses_and_gradients_are_those_of_the_formula(
    how: TrainingForm, tasks: bool, at_once: int, tmp_path: Path
) -> None:
    folder, given = folder_of(TINY, tmp_path), sequences(tasks)
    with made(folder, replace(how, at_once=at_once), TRAIN) as ours:
        with torch.no_grad():
            for name, one in ours.learned.values.items():
                if name.endswith((ROUTES, ROUTER)):
                    one.normal_(0, 1.0, generator=torch.Generator().manual_seed(len(name)))
        theirs = Written(folder, ours, given.tasks)
        due = theirs.losses(given)
        torch.testing.assert_close(ours.network.losses(given), due.detach(), rtol=1e-4, atol=1e-5)
        routing = how.routing
        assert routing is not None
        (due.mean() + routing.balance * sum(theirs.uneven)).backward()
        found: dict[str, torch.Tensor] = {}
        loss = ours.network.learn(given, found.update)
        assert loss == pytest.approx(due.mean().item(), rel=1e-5)
        assert set(found) == set(theirs.parameters)
        for name, grad in found.items():
            own = theirs.parameters[name].grad
            assert own is not None
            torch.testing.assert_close(grad, own, rtol=2e-3, atol=2e-6, msg=name)


def test_experts_beside_four_bits(tmp_path: Path) -> None:
    with made(folder_of(TINY, tmp_path), MIXED, TRAIN, NormalFloat("blocks")) as ours:
        found: dict[str, torch.Tensor] = {}
        assert np.isfinite(ours.network.learn(sequences(), found.update))
        assert any(bool(one.abs().max() > 0) for name, one in found.items() if name.endswith(ROUTER))


# --- Priced ---------------------------------------------------------------------------------------------------------


def plan(folder: Path, step: Any, **asked: Any) -> Plan:
    budget = Budget(1 << 31, Workload(task="train", train=TRAIN))
    question = Question(describe(str(folder)), null_machine(), budget, shipped_priors(), torch_bytes=200_000_000)
    return make_training_plan(question, Asked("lora", "float32", step, **asked))


def test_plans_price_what_several_adapters_take(tmp_path: Path) -> None:
    folder = folder_of(TINY, tmp_path)
    one = plan(folder, LowRank(rank=4, alpha=8.0), activations="recomputed")  # as with several of them
    for step in (MixtureOfAdapters(rank=4, alpha=8.0, experts=4), RoutedHeads(rank=4, alpha=8.0, adapters=3, tasks=2)):
        found = plan(folder, step)
        how = found.form.training
        assert how is not None
        values = sum(int(np.prod(shape)) for weight in found.form.weights for shape in how.trained(weight).values())
        holders = {holder.name: holder.high for holder in found.cost.holders}
        assert holders["adapters"] == pytest.approx(4 * values, rel=0.02)
        assert holders["optimizer states"] == pytest.approx(8 * values, rel=0.02)
        assert found.cost.step_s.mid > one.cost.step_s.mid
        assert found.cost.memory_high > one.cost.memory_high
        again = Plan.from_json(json.loads(json.dumps(found.to_json())))
        assert again.form.training == how
        assert again.steps == found.steps


def test_what_cannot_be_routed_is_refused(tmp_path: Path) -> None:
    folder = folder_of(TINY, tmp_path)
    for step, why in (
        (MixtureOfAdapters(experts=4, chosen=4), "not all"),
        (RoutedHeads(heads=7), "cannot be cut into 7 heads"),
        (RoutedHeads(roles="x"), "no weights x"),
        (MixtureOfAdapters(roles="x"), "no weights x"),
    ):
        with pytest.raises(UsageError, match=why):
            plan(folder, step)


# --- Learned, ended in between, and saved ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("routed")
    write_hf(at / "m", TINY)
    lines = (
        {
            "task": ("sum", "näme/of it")[n % 2],
            "messages": [
                {"role": "user", "content": f"{n} and 1?"},
                {"role": "assistant", "content": f"It is {n + 1}."},
            ],
        }
        for n in range(60)
    )
    (at / "d.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return at


class Enough(Exception):
    """Whoever watches has seen enough."""


def tuned(at: Path, out: str, adapter: str, stop: int = 0) -> pintpot.Tuned:
    def watch(event: Any) -> None:
        if stop and event.step == stop:
            raise Enough

    settings = Settings(learning_rate=0.01, checkpoint=2, experts=3)
    return pintpot.tune(
        at / "m", at / "d.jsonl", output=at / out, method="lora", arithmetic="float32", adapter=adapter,
        settings=settings, happened=watch, **SHORT,
    )  # fmt: skip


@pytest.mark.parametrize("adapter", ["mixlora", "mhr"])
def test_a_start_that_was_ended_goes_on_to_the_same_bits(adapter: str, place: Path) -> None:
    whole = tuned(place, f"{adapter}-whole", adapter)
    assert whole.asked[-1][1] < whole.asked[0][1] - 0.05
    with pytest.raises(Enough):
        tuned(place, f"{adapter}-ended", adapter, stop=3)
    again = tuned(place, f"{adapter}-ended", adapter)
    assert again.began_at == 2
    assert again.losses == whole.losses
    one, other = (place / f"{adapter}-{end}" / "routed_adapters.safetensors" for end in ("whole", "ended"))
    assert one.read_bytes() == other.read_bytes()
    said = json.loads((one.parent / "routed_adapters.json").read_text())
    assert said["routing"]["kind"] == {"mixlora": "experts", "mhr": "heads"}[adapter]
    values = load_file(one)
    assert values["layers.0.q" + LORA_A].shape[-1] == TINY.hidden
    if adapter == "mixlora":
        assert values["layers.0.gate" + LORA_A].shape == (3, 4, TINY.hidden)
        assert values["layers.0.gate" + ROUTER].shape == (3, TINY.hidden)
        return
    assert said["tasks"] == ["sum", "näme/of it"]
    folders = sorted(path.name for path in (one.parent / "tasks").iterdir())
    assert folders == ["0-sum", "1-n_me_of_it"]
    with_task = describe(str(one.parent / "tasks" / folders[1]))
    assert with_task.source.merged is not None
    assert with_task.source.merged.rank == 4
    found = load_file(one.parent / "tasks" / folders[1] / "adapter_model.safetensors")
    due = of_task(values, 1)["layers.1.v" + LORA_B]
    assert torch.equal(found["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"], due)
