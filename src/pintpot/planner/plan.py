"""The plan: which steps, what they promise, and why the others lost; JSON both ways, the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pintpot.budget import Budget, Train, Workload
from pintpot.contract.form import ActivationForm, CacheForm, Form, RingForm, WeightForm, Weights
from pintpot.contract.step import Step, step_from_json
from pintpot.contract.training import TrainingForm
from pintpot.errors import BadInput, UsageError, need
from pintpot.model.spec import Part
from pintpot.planner.cost import ZERO, Cost, Gain, Holder, Span, StageCost
from pintpot.techniques import classes

VERSION = 3
NATS = "nats"
COSINE = "of cosine"
"""The unit of degradation where there are no words: what a cosine lacks to 1."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An alternative that lost: what it was, why, and its figures where it has some.

    It is the plan with `step` in place of the chosen step of that facet and target; with `step` None the plan without
    `instead_of`.
    """

    what: str
    reason: str
    step: Step | None = None
    instead_of: Step | None = None
    memory_bytes: int | None = None
    total_s: float | None = None
    degradation: float | None = None


@dataclass(frozen=True, slots=True)
class Degradation:
    """Mean KL divergence in nats per token: expected of the steps, or what `prove` measured for this very plan.

    `low` to `high` is about the words of answers, which are decoded one by one after a prompt that was prefilled;
    `prefill_low` to `prefill_high` about the words of the prompt itself, of which nobody sees but the one after it.
    Where it was measured, the span is the 95% interval around `mean`, from `num_tokens` words of answers.
    `summed` says that what formats cost was added up over this model's own weights, each measured alone. Of a model
    without words it is 1 minus the cosine of its answers with those of the unpacked one, and prompts are as answers.
    """

    low: float
    high: float
    measured: bool = False
    prefill_low: float = 0.0
    prefill_high: float = 0.0
    mean: float | None = None
    num_tokens: int = 0
    summed: bool = False
    unit: str = NATS


@dataclass(frozen=True, slots=True)
class Advice:
    """What more memory would bring: `seconds` for the workload at `memory_bytes`."""

    memory_bytes: int
    total_s: float
    what: str


@dataclass(frozen=True)
class Plan:
    """How one model will run on one machine inside one budget.

    `model` and `machine` are identified by digest; `threads` is how many threads compute; `parts` are the model's,
    without their blocks: all that their families need to build the work again. Everything else of the run follows from
    `steps` and `form`.
    """

    model_name: str
    model_digest: str
    parts: tuple[Part, ...] = field(repr=False)
    machine_name: str
    machine_digest: str
    machine_fingerprint: str
    machine_origin: str
    budget: Budget
    threads: int
    steps: tuple[Step, ...]
    form: Form = field(repr=False)
    cost: Cost
    degradation: Degradation
    rejected: tuple[Rejected, ...] = ()
    advice: tuple[Advice, ...] = ()
    smallest_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> Mapping[str, Any]:
        """That of the part which answers: the language, or the last one."""
        return next((part for part in self.parts if part.name == "language"), self.parts[-1]).config

    def to_json(self) -> dict[str, Any]:
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        plain = {k: v for k, v in data.items() if k not in ("steps", "parts", "budget", "form", "cost")}
        plain["rejected"] = [_rejected_json(item) for item in self.rejected]
        plain["advice"] = [asdict(item) for item in self.advice]
        plain["degradation"] = asdict(self.degradation)
        return {
            "pintpot_plan": VERSION,
            **plain,
            "parts": [
                {"name": p.name, "family": p.family, "config": dict(p.config), "prefix": p.prefix} for p in self.parts
            ],
            "budget": asdict(self.budget),
            "steps": [step.to_json() for step in self.steps],
            "form": asdict(self.form),
            "cost": asdict(self.cost),
        }

    def dumps(self) -> str:
        """The plan as text; the same plan gives the same text."""
        return json.dumps(self.to_json(), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Raises BadInput for anything that `to_json` did not write, a newer version by name."""
        need(isinstance(data, Mapping) and "pintpot_plan" in data, "not a plan")
        version = data["pintpot_plan"]
        newer = isinstance(version, int) and version > VERSION
        remedy = "update pintpot" if newer else "plan and pack again"
        need(version == VERSION, f"this plan has format {version!r:.60}, this pintpot reads {VERSION}; {remedy}")
        try:
            fields = {key: value for key, value in data.items() if key != "pintpot_plan"}
            fields["budget"] = budget_from_json(fields["budget"])
            fields["parts"] = tuple(Part(**part) for part in fields["parts"])
            fields["steps"] = tuple(step_from_json(step, classes()) for step in fields["steps"])
            fields["form"] = _form(fields["form"])
            fields["cost"] = _cost(fields["cost"])
            fields["degradation"] = Degradation(**fields["degradation"])
            fields["rejected"] = tuple(_rejected(item) for item in fields["rejected"])
            fields["advice"] = tuple(Advice(**item) for item in fields["advice"])
            fields["notes"] = tuple(fields["notes"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise BadInput(f"not a plan: {error!r}") from error

    def without_reasons(self) -> Plan:
        """The plan alone, as a pack keeps it."""
        return replace(self, rejected=(), advice=())


def budget_from_json(data: Mapping[str, Any]) -> Budget:
    """The budget whose `asdict` became JSON."""
    return Budget(**{**data, "workload": _workload(data["workload"]), "chosen": tuple(data["chosen"])})


def _rejected_json(item: Rejected) -> dict[str, Any]:
    data = {key: getattr(item, key) for key in item.__dataclass_fields__}
    steps = {key: data[key].to_json() if data[key] else None for key in ("step", "instead_of")}
    return {**data, **steps}


def _rejected(data: Mapping[str, Any]) -> Rejected:
    steps = {key: step_from_json(data[key], classes()) if data[key] else None for key in ("step", "instead_of")}
    return Rejected(**{**data, **steps})


def _workload(data: Mapping[str, Any]) -> Workload:
    train = data.get("train")
    return Workload(**{**data, "train": None if train is None else Train(**train)})


def _form(data: Mapping[str, Any]) -> Form:
    weights = Weights(WeightForm(**{**item, "shape": tuple(item["shape"])}) for item in data["weights"])
    ring = RingForm(**data["ring"]) if data["ring"] else None
    how = data.get("training")
    training = None if how is None else TrainingForm.from_json(how)
    cache, activation = CacheForm(**data["cache"]), ActivationForm(**data["activation"])
    return Form(weights, cache, activation, data["chunk"], ring, training)


def _cost(data: Mapping[str, Any]) -> Cost:
    stages = tuple(
        StageCost(**{**item, "seconds": Span(**item["seconds"]), "bound_s": tuple(map(tuple, item["bound_s"]))})
        for item in data["stages"]
    )
    holders = tuple(Holder(**item) for item in data["holders"])
    calibrating = Span(**data["calibrate_s"]) if "calibrate_s" in data else ZERO
    page = Span(**data["page_s"]) if "page_s" in data else ZERO
    gain = Gain(**data["guessing"]) if data.get("guessing") else None
    opening, packing = Span(**data["open_s"]), Span(**data["pack_s"])
    return Cost(holders, stages, opening, packing, data["pack_bytes"], calibrating, page, gain)
