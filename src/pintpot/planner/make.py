"""From a question to a plan with its reasons: what lost and by how much, and what other budgets would bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pintpot.budget import Budget
from pintpot.contract.step import GENTLER, Facet, Step
from pintpot.errors import DoesNotFit, UsageError, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.nets.adapted import measured_blocks
from pintpot.planner.advise import advice, smallest_budget, why_not
from pintpot.planner.allocate import place
from pintpot.planner.assess import Bench
from pintpot.planner.degradation import Priors, gentler, shipped_priors
from pintpot.planner.dominance import outpaced
from pintpot.planner.draft import Priced
from pintpot.planner.gentle import gentlest
from pintpot.planner.plan import Degradation, Plan, Rejected
from pintpot.planner.question import Question
from pintpot.planner.refine import refined
from pintpot.planner.search import Search, joint, rank
from pintpot.planner.sensitivity import Sensitivities
from pintpot.planner.space import Choice, all_offers, build_space
from pintpot.units import format_bytes

MOST_TOLD = 4
"""Blocks that a note names."""
Strategy = Callable[[Search], tuple[Choice, Plan] | None]


def make_plan(
    model: Model,
    machine: Machine,
    budget: Budget,
    *,
    priors: Priors | None = None,
    measured: Mapping[str, Degradation] | None = None,
    measured_bytes: Mapping[str, tuple[int, int]] | None = None,
    sensitivities: Sensitivities | None = None,
    proved: Mapping[str, tuple[float, float]] | None = None,
    guessed: Sequence[tuple[float, float]] = (),
    torch_bytes: int = 0,
    strategy: Strategy = joint,
) -> Plan:
    """The best plan for this model on this machine that keeps the budget; `prefer` says best in what.

    With `sensitivities` each weight may have a format of its own; `proved` is what proofs found over their sums, and
    `guessed` how guessed words went (see `gain_of`). Of a module of PyTorch, `torch_bytes` is what a process weighs
    that runs some.

    "memory" asks for the least memory that keeps the other limits. The same arguments give the same plan, byte for
    byte. Raises DoesNotFit with the smallest budget that would do and what would have to give; UsageError for a
    context beyond the model's; UnsupportedModel for one that the native kernels cannot compute.
    """
    question = _question(model, machine, budget, priors, measured, measured_bytes)
    question = replace(question, sensitivities=sensitivities, proved=proved or {}, torch_bytes=torch_bytes)
    question = replace(question, guesses=tuple(guessed))
    searches = _Searches(question)
    smallest, in_least = searches.smallest()
    if smallest is None or smallest > budget.memory_bytes:
        raise DoesNotFit(why_not(in_least, smallest), smallest)
    search = in_least.within(smallest) if budget.prefer == "memory" else searches.of(budget.memory_bytes)
    strategy(search)
    found = refined(search)
    if found is None:
        raise DoesNotFit(why_not(search, smallest))
    choice, plan, how = found
    rejected = (*_neighbours(search, choice, plan), *search.space.ruled_out(search.memory_bytes))
    notes = _idle_cards(machine) + plan.notes + _notes(machine, plan) + ((how,) if how else ())
    hints = advice(search, choice, plan)
    return replace(plan, rejected=rejected, advice=hints, smallest_bytes=smallest, notes=notes)


class _Searches:
    """Searches of one question; more memory has more ways of rounding, for calibrating takes some."""

    def __init__(self, question: Question) -> None:
        self._bench, self._offers = Bench(question), all_offers(question)
        self._rooms = sorted({offer.packing_bytes for offer in self._offers} | {0})
        self._found: dict[int, Search] = {}

    def of(self, memory_bytes: int) -> Search:
        """A search among the ways of rounding that there are in so much memory."""
        room = max(room for room in self._rooms if room <= memory_bytes)
        if room not in self._found:
            question = self._bench.question
            space = build_space(question, self._offers, room)
            self._found[room] = Search(self._bench, space, question.budget.memory_bytes)
        return self._found[room]

    def smallest(self) -> tuple[int | None, Search]:
        """The smallest budget, and a search that finds its plan; without a budget that would do, the widest search."""
        best: int | None = None
        at = self.of(0)
        for room in self._rooms:
            if best is not None and best <= room:
                break
            search = self.of(room)
            found = smallest_budget(search)
            if best is None or (found is not None and found < best):
                best, at = found, search
        return best, at


def alternative(plan: Plan, rejected: Rejected) -> tuple[Step, ...]:
    """The steps of an alternative that lost, its place left out for the allocation to solve."""
    kept = [s for s in plan.steps if s != rejected.instead_of and not (rejected.step and s.clashes(rejected.step))]
    return (*kept, rejected.step) if rejected.step else tuple(kept)


def reassess(question: Question, plan: Plan, rejected: Rejected) -> Plan:
    """The plan that an alternative would have been, whatever limits it breaks. Raises as `assess` does."""
    bench = Bench(question)
    memory = plan.smallest_bytes if plan.budget.prefer == "memory" else plan.budget.memory_bytes
    steps, space = alternative(plan, rejected), build_space(question, memory_bytes=memory)
    if rejected.step is not None and rejected.step.facet == Facet.FORMAT:
        formats = [step for step in steps if step.facet == Facet.FORMAT]
        way = gentlest(question.expects, formats, space.ways)
        steps = (*(step for step in steps if step.facet not in GENTLER), *way)
    return bench.plan(place(bench, bench.draft(steps), space.places, memory).price(bench))


def _question(
    model: Model,
    machine: Machine,
    budget: Budget,
    priors: Priors | None,
    measured: Mapping[str, Degradation] | None,
    measured_bytes: Mapping[str, tuple[int, int]] | None,
) -> Question:
    context = budget.workload.context
    language = model.language
    most = 0 if language is None else language.config.get("max_position_embeddings", 0)
    why = f" (its {most} take rotary factors that do not run here)" if model.context < most else ""
    need(
        context <= model.context,
        f"a context of {context} is beyond the model's {model.context}{why}; use --context {model.context} or less",
        UsageError,
    )
    return Question(model, machine, budget, priors or shipped_priors(model.kind), measured or {}, measured_bytes or {})


def _neighbours(search: Search, choice: Choice, plan: Plan) -> tuple[Rejected, ...]:
    """Every plan that differs in one choice, with its figures or its reason."""
    rows: list[Rejected] = []
    told = Facet.FORMAT if plan.form.ring is None else None  # who waits for the disk has another reason
    for index, dimension in enumerate(search.space.dimensions):
        ways = (gentler(choice),)
        slow = outpaced(search.bench.question, dimension.options, ways) if dimension.facet == told else {}
        for option in dimension.options:
            if option == choice[index]:
                continue
            other = (*choice[:index], option, *choice[index + 1 :])
            if dimension.facet == Facet.FORMAT:
                other = search.gently(other)
            tried = search.try_choice(other)
            name = str(option) if option is not None else f"without {choice[index]}"
            reason = _why_worse(tried, plan) if tried else search.failures[other]
            if tried and option in slow:
                reason = f"{reason}; {slow[option]}"
            row = Rejected(name, reason, option, choice[index] if option is None else None)
            figures = tried or search.nearest.get(other)
            if figures is not None:
                row = replace(
                    row,
                    memory_bytes=figures.cost.memory_high,
                    total_s=figures.cost.total_s.mid,
                    degradation=figures.degradation.high,
                )
            rows.append(row)
    return tuple(rows)


def _why_worse(other: Priced, plan: Plan) -> str:
    """In what an alternative that keeps every limit is behind."""
    prefer = plan.budget.prefer
    labels = {"speed": "slower", "quality": "worse", "memory": "larger"}
    mine, theirs = rank(plan, prefer), rank(other, prefer)
    if theirs[0] > mine[0]:
        if not mine[0]:
            return f"{labels[prefer]}: {theirs[0]:.2g} nats a token, against none"  # seconds and bytes are never 0
        gain = 1 - other.cost.total_s.mid / plan.cost.total_s.mid
        if prefer == "speed" and gain >= 0:
            return f"{gain:.1%} faster at most, which is less than prices are off"
        ratio = theirs[0] / mine[0]
        return f"{labels[prefer]}: {ratio:.3g} times" if ratio >= 1.005 else f"{labels[prefer]}, by less than 0.5%"
    seconds = ("equally fast", other.cost.total_s.mid, plan.cost.total_s.mid)
    quality = ("equally good", other.degradation.high, plan.degradation.high)
    same = ", ".join(what for what, one, two in (seconds, quality) if one == two)
    if other.degradation.high > plan.degradation.high:
        worse = f"{other.degradation.high - plan.degradation.high:.2g} nats worse"
    elif other.cost.total_s.mid > plan.cost.total_s.mid:
        worse = "slower"
    elif other.cost.memory_high > plan.cost.memory_high:
        worse = f"{format_bytes(other.cost.memory_high - plan.cost.memory_high)} more memory"
    else:
        worse = "nothing is gained by it"
    return f"{same}, but {worse}" if same else worse


def _idle_cards(machine: Machine) -> tuple[str, ...]:
    cards = [device.name for device in machine.devices if device.kind == "cuda"]
    if machine.cpu.kind == "cuda":
        return (
            f"nothing runs on a graphics card yet: this tells what {cards[0]} could give; a pack of it runs on a CPU",
        )
    return (f"nothing runs on a graphics card yet: {', '.join(cards)} stays idle",) if cards else ()


def _notes(machine: Machine, plan: Plan) -> tuple[str, ...]:
    notes = []
    if machine.origin == "quick":
        notes.append("the machine was measured for 2 seconds only; `pintpot probe` makes the figures surer")
    if plan.cost.pack_bytes > machine.disk_free_bytes:
        needed, free = format_bytes(plan.cost.pack_bytes), format_bytes(machine.disk_free_bytes)
        notes.append(f"the pack takes {needed} of disk, and {free} are free")
    measured = {path: why for part in plan.parts for path, why in measured_blocks(part.config).items()}
    if measured:
        whys = "; ".join(f"{path} ({why})" for path, why in list(measured.items())[:MOST_TOLD])
        more = f", and {len(measured) - MOST_TOLD} more" if len(measured) > MOST_TOLD else ""
        notes.append(
            f"measured on the example inputs, by this machine's clock, and not recorded: {whys}{more}; what these "
            "compute, they compute by their module's own code over float32 weights that stay in RAM"
        )
    return tuple(notes)
