"""What learning takes beside the buffers of its work: on disk, for blocks on their way, for rounding before it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from pintpot.contract.form import Form
from pintpot.contract.resting import VERSIONS
from pintpot.contract.step import Facet, Step
from pintpot.contract.training import is_plain, stored_bytes
from pintpot.formats import encoding
from pintpot.planner.calibrating import TOKENS, calibrating_s, least_bytes, spacious_bytes
from pintpot.planner.cost import Holder, Span
from pintpot.planner.names import ADAPTERS, EXAMPLES, OPTIMIZER, PROCESS, ROUNDING, TOKENIZER, TORCH
from pintpot.planner.question import Question
from pintpot.planner.rates import Rates
from pintpot.program.spec import Work

CHECKPOINT_ROOM = 2.2
"""Of adapters with their moments, on disk: a checkpoint, the next one beside it, and the result."""
STATE_SHARE = 1.01
"""Of weights and moments on disk, with what fills up blocks."""


def disk_bytes(form: Form, holders: Sequence[Holder]) -> int:
    """What a run takes of the disk at most: what learns with its moments in two versions, and what was learned."""
    changed, how = float_bytes(form, changed=True), form.training
    if not changed or how is None:
        ranks = 1 if how is None else how.ranks  # each of which writes all adapters
        return round(CHECKPOINT_ROOM * ranks * sum(one.high for one in holders if one.name in (ADAPTERS, OPTIMIZER)))
    held = [how.own_shape(weight, weight.shape) for weight in form.weights if how.changes(weight)]
    kept = how.ranks * sum(4 * prod(shape) + how.moment_bytes(shape) for shape in held)
    return round(VERSIONS * STATE_SHARE * kept) + changed + float_bytes(form, changed=False)


def aside_bytes(form: Form, work: Work) -> int:
    """What the insides of blocks take of the disk that are written out, of all processes."""
    ranks = 1 if form.training is None else form.training.ranks
    return ranks * sum(int(op.get("bytes")) for op in work.stages[0].programs[0].ops if op.kind == "aside")


def float_bytes(form: Form, changed: bool) -> int:
    """Bytes in float32 of the weights that are others after a step, or of those that are not."""
    how = form.training
    own = (weight for weight in form.weights if (how is not None and how.changes(weight)) == changed)
    return sum(4 * prod(weight.shape) for weight in own)


def ahead_bytes(form: Form) -> int:
    """What of one block is in memory as floats while another one is computed; and bytes of it as they are read."""
    how = form.training
    blocks: dict[str, int] = {}
    for weight in form.weights:
        if how is None or is_plain(weight, how) or how.divides(weight) or "." not in weight.name:
            continue
        name = weight.name.rpartition(".")[0]
        floats = weight.shape[0] * encoding(how.computed_in).row_bytes(weight.shape[1])
        read = 0 if weight.packed or weight.ram_rows or how.changes(weight) else stored_bytes(weight) // 4
        blocks[name] = blocks.get(name, 0) + floats + read
    return max(blocks.values(), default=0)


def rounding(question: Question, form: Form, steps: Sequence[Step], holders: Sequence[Holder]) -> tuple[Holder, ...]:
    """Of rounding by what meets weights, in a process beside this one, what both take more than learning will."""
    gentle, train = _gentle(steps), question.budget.workload.train
    if not gentle or train is None:
        return ()
    here = beside_rounding(form, holders)
    lengths = [train.length] * max(1, TOKENS // train.length)
    spacious = here + spacious_bytes(form, gentle, question.threads, lengths)
    least = here + least_bytes(form, gentle, question.threads, train.length)
    learning = sum(one.high for one in holders)
    # With more room than learning takes anyway it is only faster.
    wanted = spacious if spacious <= question.budget.memory_bytes else max(least, learning)
    return (Holder(ROUNDING, 0, wanted - learning),) if wanted > learning else ()


def beside_rounding(form: Form, holders: Sequence[Holder]) -> int:
    """What this process holds at most while the one beside it rounds: of several that learn, PyTorch too."""
    together = form.training is not None and form.training.ranks > 1
    names = (PROCESS, TOKENIZER, EXAMPLES, *((TORCH,) if together else ()))
    return sum(one.high for one in holders if one.name in names)


def rounding_s(form: Form, steps: Sequence[Step], rates: Rates) -> Span:
    """Seconds that it takes, before the first step."""
    return calibrating_s(form, _gentle(steps), rates)


def _gentle(steps: Sequence[Step]) -> tuple[Step, ...]:
    return tuple(step for step in steps if step.facet == Facet.ROUNDING)
