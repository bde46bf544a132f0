"""Convolutions of a recording whose way back sees means over patches of places: which they are, and what that asks for.

`kernels.torch.filtered` computes them. Along an axis with `taps` of the kernel a patch is `r` places where whole ones
fill it, and where more than half of the taps fit; where a convolution has groups, or no axis has patches, it stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from pintpot.program.spec import Op

CONVOLUTION = "convolution.default"
SIGNS = ("relu.default", "hardtanh.default")
"""Calls that go back by where values were between their bounds: a byte of each."""
AXES, BESIDE = 2, 20.0


@dataclass(frozen=True, slots=True)
class Filtered:
    """A patch [r of each axis], values that are `kept` for the way back, and whether they are `sums` or the input.

    `share` is what is left of the products of the way back, `passed` how many values sums and means go over in how many
    `calls`.
    """

    patch: tuple[int, ...]
    kept: int
    sums: bool
    share: float
    passed: float
    calls: float


def patch_of(places: Sequence[int], taps: Sequence[int], r: int) -> tuple[int, ...]:
    """The patch along each axis of so many places."""
    return tuple(r if size % r == 0 and kernel < 2 * r else 1 for size, kernel in zip(places, taps, strict=True))


def kept_of(given: Sequence[int], taps: Sequence[int], places: Sequence[int], patch: Sequence[int]) -> tuple[int, bool]:
    """Values of a channel that are kept for the way back, and whether they are sums, and not the input."""
    asked = prod(kernel * (count // r) for kernel, count, r in zip(taps, places, patch, strict=True))
    return min(asked, prod(given)), asked < prod(given)


def filtered(op: Op, r: int) -> Filtered | None:
    """How a call is filtered by patches of r x r; None for one that stays as it is."""
    return None if why_not(op, r) else _found(op, r)


def marked(ops: Sequence[Op], r: int, sizes: Mapping[str, int], keeps: Callable[[Op], tuple[str, ...]]) -> list[Op]:
    """The calls, with `filtered` for those that are, `sums` where these are kept of the input, `signs` of a result.

    Sums take the place of an input where nobody else keeps it and they are less; behind a ReLU its signs are with them.
    """
    found = {at: one for at, op in enumerate(ops) if (one := filtered(op, r)) is not None}
    makers = {op.writes[0][1]: at for at, op in enumerate(ops) if op.get("call") in SIGNS}
    keepers: dict[str, set[int]] = {}
    for at, op in enumerate(ops):
        for name in keeps(op):
            keepers.setdefault(name, set()).add(at)
    marks: dict[int, list[tuple[str, object]]] = {at: [("filtered", r)] for at in found}
    # What comes from outside is there anyway.
    for name in {ops[at].reads[0][1] for at in found} & {name for op in ops for _, name in op.writes}:
        own = {at for at in found if ops[at].reads[0][1] == name and found[at].sums}
        made = makers.get(name, -1)
        less = sum(found[at].kept for at in own) + (-(-sizes[name] // 4) if made >= 0 else 0) < sizes[name]
        if own and less and keepers.get(name, set()) <= own | {made}:
            for at in own:
                marks[at].append(("sums", True))
            if made >= 0:
                marks[made] = [("signs", True)]
    return [replace(op, attributes=(*op.attributes, *marks.get(at, ()))) for at, op in enumerate(ops)]


def why_not(op: Op, r: int) -> str:
    """Why a convolution stays as it is, "" where it does not."""
    if op.get("call") != CONVOLUTION:
        return "no convolution"
    x, weight = (view[1] for view in op.get("views")[:2])
    args = json.loads(op.get("args"))
    if len(x) != AXES + 2 or args[6]:
        return "another number of axes than two"
    if args[8] != 1:
        return "groups, which have few products"
    places = op.get("outs")[0][1][2:]
    if all(size == 1 for size in patch_of(places, weight[2:], r)):
        return f"{' x '.join(map(str, places))} places for a kernel of {' x '.join(map(str, weight[2:]))}"
    return ""


def _found(op: Op, r: int) -> Filtered:
    x, weight = (view[1] for view in op.get("views")[:2])
    out = op.get("outs")[0][1]
    steps = json.loads(op.get("args"))[3]
    taps, places = weight[2:], out[2:]
    patch = patch_of(places, taps, r)
    kept, sums = kept_of(x[2:], taps, places, patch)
    plain = all(size == 1 for size in taps)
    # Products are those of patches; sums go over the input tap by tap, means over what was made, and what the products
    # give goes to every place that it meets, one axis after the other.
    down, across = (step * (1 if plain else 1 / kernel) for step, kernel in zip(steps, taps, strict=True))
    passed = prod(x) * float(taps[0]) + 2.0 * prod(out) + prod(x) / down * (1 + 1 / across / patch[0])
    # Each tap at each place of a patch is a call, of the sums and of what goes back; beside that a few.
    calls = 2.0 * sum(taps[at] * patch[at] for at in range(AXES)) + BESIDE
    return Filtered(patch, x[0] * x[1] * kept, sums, 1 / prod(patch), passed, calls)
