"""What becomes of blocks' insides between the ways forward and back: they stay, are written out, or computed again.

They stay of as many blocks as the budget has room for; of the others the disk takes those with which a step is fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.contract.training import TrainingForm, block_of
from pintpot.model.spec import Model
from pintpot.planner.candidate import Candidate
from pintpot.techniques.train.recompute import Recompute
from pintpot.techniques.train.ssd_train import SsdTrain

Price = Callable[[tuple[Step, ...], Form], Candidate]
AUTO, KEPT, RECOMPUTED, WRITTEN = "auto", "kept", "recomputed", "written"
ACTIVATIONS = (AUTO, KEPT, RECOMPUTED, WRITTEN)
"""What can be asked: the fastest of these for each block, or one of them for all."""


def settled(
    asked: str, model: Model, steps: tuple[Step, ...], form: Form, source: Form
) -> tuple[tuple[Step, ...], Form]:
    """The steps where one way was asked for all blocks, and their form. Raises NotApplicable."""
    passing, how = _recomputing(steps), form.training
    if passing is None or how is None or asked not in (KEPT, WRITTEN):
        return steps, form
    count = _gone_back_through(form, how)
    instead = replace(passing, stays=count) if asked == KEPT else SsdTrain(at_once=passing.at_once, written=count)
    instead.check(model, form)
    return _instead(steps, instead, source)


def ways(
    plain: Candidate, price: Price, source: Form, memory_bytes: int, room_bytes: int | None
) -> Iterator[Candidate]:
    """Of a candidate that computes blocks again: with as many kept as fit, and with others written out.

    The second takes no more than `room_bytes` of the disk. Where it is slower it is told all the same, for as many
    blocks as there are.
    """
    passing, how = _recomputing(plain.steps), plain.form.training
    if passing is None or how is None or how.routing is not None:
        return
    most = _gone_back_through(plain.form, how)
    if memory_bytes <= plain.cost.memory_high or most == 0:
        return
    search = _Search(plain, passing, price, source, memory_bytes)
    # The first one takes no more than what is computed again did.
    each = max(1, search.at(most).cost.memory_high - search.at(1).cost.memory_high) / max(1, most - 1)
    stays = search.staying(1, each, most)
    if stays:
        yield search.at(stays)
    if stays < most:
        yield from search.writing(search.at(stays), each, most, room_bytes)


@dataclass(frozen=True)
class _Search:
    plain: Candidate
    passing: Recompute
    price: Price
    source: Form
    memory_bytes: int
    _known: dict[tuple[int, int], Candidate] = field(default_factory=dict, repr=False)

    def at(self, stays: int, written: int = 0) -> Candidate:
        """With so many blocks kept, and so many written out."""
        if (stays, written) not in self._known:
            plain, at_once = replace(self.passing, stays=stays), self.passing.at_once
            instead = SsdTrain(at_once=at_once, stays=stays, written=written) if written else plain
            self._known[stays, written] = self.price(*_instead(self.plain.steps, instead, self.source))
        return self._known[stays, written]

    def staying(self, first: int, each: float, most: int, blocks: int = 0) -> int:
        """Of how many blocks the inside may stay, of which after the `first` ones each takes `each` bytes more.

        Of so many `blocks` that of all others is written out.
        """
        more = (self.memory_bytes - self.at(first, max(0, blocks - first)).cost.memory_high) / each
        count = max(0, min(most, first + int(more) + 1))  # blocks differ a little
        while count and self.at(count, max(0, blocks - count)).cost.memory_high > self.memory_bytes:
            count -= 1
        return count

    def writing(self, other: Candidate, each: float, most: int, room_bytes: int | None) -> Iterator[Candidate]:
        """The fastest way that writes anything; where the `other`, which writes nothing, is faster, all of it."""
        every, stays = self.at(0, most), self.staying(0, each, most - 1, most)
        rest = most - stays
        share = (every.cost.pack_bytes - other.cost.pack_bytes) / most
        few, many = 1, rest
        if room_bytes is not None and share * rest > room_bytes - other.cost.pack_bytes:
            many = max(1, int((room_bytes - other.cost.pack_bytes) / share))
        while few < many:
            middle = (few + many) // 2
            if self._seconds(stays, middle) <= self._seconds(stays, middle + 1):
                many = middle
            else:
                few = middle + 1
        found = self.at(stays, few)
        # What is computed again may need room that what is written does not.
        better = found.cost.total_s.mid < other.cost.total_s.mid and found.cost.memory_high <= self.memory_bytes
        yield found if better else self.at(stays, rest)

    def _seconds(self, stays: int, written: int) -> float:
        return self.at(stays, written).cost.total_s.mid


def _recomputing(steps: Sequence[Step]) -> Recompute | None:
    return next((step for step in steps if isinstance(step, Recompute)), None)


def _instead(steps: Sequence[Step], instead: Step, source: Form) -> tuple[tuple[Step, ...], Form]:
    """The steps with another one in the place of the one that computes again, and their form."""
    form, found = source, list[Step]()
    for step in steps:
        found.append(instead if isinstance(step, Recompute) else step)
        form = found[-1].promise(form)
    return tuple(found), form


def _gone_back_through(form: Form, how: TrainingForm) -> int:
    """The blocks from the first one on in which something learns; all where what is looked up does."""
    names = dict.fromkeys(block_of(weight.name) for weight in form.weights if weight.is_matrix)
    learning = {block_of(weight.name) for weight in form.weights if weight.is_matrix and how.trained(weight)}
    blocks = [name for name in names if "." in name]
    if any("." not in name for name in learning):
        return len(blocks)
    return len(blocks) - next((at for at, name in enumerate(blocks) if name in learning), len(blocks))
