"""Weights as tensors that rows are multiplied with: held in memory, or there for as long as their block is computed.

What is not held comes a block ahead of the computation, in a thread of its own: from the model's own files, or, what
learns, from where it rests (`trainer.resting`), and goes back there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pintpot.contract.form import Form
from pintpot.contract.resting import rests_on_disk
from pintpot.contract.step import SourceRows, Step
from pintpot.contract.training import is_plain
from pintpot.contract.tutor import ALONE, Tutor
from pintpot.contract.weights import STRIP_ROWS, WeightForm
from pintpot.formats.registry import encoding
from pintpot.formats.source import decode
from pintpot.formats.tiles import unpack
from pintpot.kernels.torch.differentiable import FLOATS, Memory
from pintpot.kernels.torch.passes import expand
from pintpot.kernels.torch.room import copied, room
from pintpot.kernels.torch.threads import compute_alone
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate.prepared import Prepared
from pintpot.trainer.ranks import ALONE as BY_ITSELF
from pintpot.trainer.ranks import Ranks
from pintpot.trainer.resting import Loan, Resting

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
CHUNK_VALUES = 1 << 18
"""Values of a weight that are decoded at a time."""
Bytes = NDArray[np.uint8]


class Weights:
    """The weights of a model in a form. `steps` are those of its plan: the one of a weight's format packs it.

    Everything that the form keeps in RAM is read when this is made; of matrices that `ranks` share out, their own rows.
    Blocks meet rows as the `tutor` says. What learns on disk rests in the file of `rests`, of what is in no block so
    many rows in memory at a time; `prepared` has what was rounded before. Raises DiskTooSmall.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        form: Form,
        steps: Sequence[Step],
        tutor: Tutor = ALONE,
        rests: tuple[Path, int] | None = None,
        ranks: Ranks = BY_ITSELF,
        prepared: Prepared | None = None,
    ) -> None:
        how = form.training
        self._prepared = prepared
        self._tutor, self._how, self.ranks = tutor, how, ranks
        self._store, self._forms, self._reading = store, form.weights.by_name, Lock()
        self._sources = {w.name: w for part in model.parts for w in part.weights()}
        self._steps = tuple(steps)
        self._computed_in = "f32" if how is None else how.computed_in
        self._held: dict[str, torch.Tensor] = {}
        self._strips: dict[str, Bytes] = {}
        self._parts: dict[str, torch.Tensor] = {}
        # What these compute is little, and a second set of OpenMP's threads would hinder the first.
        self._reader = ThreadPoolExecutor(1, "weights", compute_alone)
        self._converter = ThreadPoolExecutor(1, "converted", compute_alone)
        self._ahead: dict[str, Future[tuple[Memory, Loan | None]]] = {}
        self._loans: dict[str, Loan] = {}
        for weight in form.weights:
            if weight.ram_rows or not weight.is_matrix:
                self._hold(weight)
        away = any(rests_on_disk(weight, how) for weight in form.weights)
        self.resting = Resting(rests[0], form, self._as_read, rests[1]) if away and rests is not None else None

    def close(self) -> None:
        """Let what is being read end."""
        if self.resting is not None:
            self.resting.stop()
        self._reader.shutdown(cancel_futures=True)
        self._converter.shutdown(cancel_futures=True)
        if self.resting is not None:
            self.resting.close()

    def block(self, name: str, weights: Sequence[str], following: tuple[str, Iterable[str]] | None) -> Memory:
        """The weights of a block under the names by which its ops read them; the block `following` is begun."""
        coming = self._ahead.pop(name, None) or self._begin(weights)
        found, loan = coming.result()
        if loan is not None and self.resting is not None:
            self.resting.hand(loan)
            self._loans[name] = loan
        if following is not None:
            self._ahead[following[0]] = self._begin(following[1])
        # All processes gather in one order, so no other thread does.
        return found | {one + FLOATS: self.gathered(one) for one in weights if one in self._parts}

    def done(self, name: str) -> None:
        """Nobody computes with the weights of a block any more; those that have changed go where they rest."""
        loan = self._loans.pop(name, None)
        if loan is not None and self.resting is not None:
            self.resting.back(loan)

    def tensor(self, name: str) -> torch.Tensor:
        """All of one weight, in the dtype in which it is multiplied, or float32 of a vector."""
        weight, held = self._forms[name], self._held.get(name)
        if held is None and self.resting is not None and name in self.resting:
            return self.resting.rows(name, 0, weight.shape[0])
        if held is None:
            return self._floats(name, 0, weight.shape[0])
        return self._tutor.met(name, held).to(DTYPES[self._computed_in]) if weight.is_matrix else held

    def source(self, name: str) -> torch.Tensor:
        """One weight in float32 as the model's own files have it: the one that is held, where that is float32."""
        held = self._held.get(name)
        if held is not None and held.dtype == torch.float32:
            return held
        if self._forms[name].is_matrix:
            return self._floats(name, 0, self._forms[name].shape[0], exact=True)
        return torch.from_numpy(self._store.vector(name))

    def held(self, name: str) -> torch.Tensor:
        """One weight as it is held: changed in place, it is another one from then on."""
        return self._parts[name] if name in self._parts else self._held[name]

    def rows(self, name: str, chunk: int) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, rows [n, K]) of a matrix, `chunk` at a time."""
        num_rows = self._forms[name].shape[0]
        if self.resting is not None and name in self.resting:
            yield from self._passing(self.resting, name, chunk)
            return
        for first in range(0, num_rows, chunk):
            stop = min(num_rows, first + chunk)
            held = self._held.get(name)
            found = self._floats(name, first, stop) if held is None else held[first:stop]
            yield first, found.to(DTYPES[self._computed_in])

    def looked_up(self, name: str, tokens: torch.Tensor) -> torch.Tensor:
        """Rows of a matrix in float32 [T, K]."""
        if name in self._held:
            return self._held[name][tokens].float()
        wanted, back = torch.unique(tokens, return_inverse=True)
        if self.resting is not None and name in self.resting:
            return self.resting.looked_up(name, wanted.tolist())[back]
        if not len(wanted):
            return torch.empty((0, self._forms[name].shape[1]))
        rows = [self._floats(name, int(row), int(row) + 1, exact=True) for row in wanted]
        return torch.cat(rows).float()[back]

    def _passing(self, resting: Resting, name: str, chunk: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows that rest on disk; the next ones come meanwhile, and those that were changed go back."""
        num_rows, dtype = self._forms[name].shape[0], DTYPES[self._computed_in]
        resting.settle()

        def begin(first: int) -> Future[Loan]:
            return self._reader.submit(resting.lend, [name], first, min(num_rows, first + chunk))

        coming = begin(0)
        for first in range(0, num_rows, chunk):
            loan = coming.result()
            resting.hand(loan)
            if first + chunk < num_rows:
                coming = begin(first + chunk)
            yield first, copied(loan.tensors[name], dtype)
            resting.back(loan)

    def _begin(self, weights: Iterable[str]) -> Future[tuple[Memory, Loan | None]]:
        return self._reader.submit(self._expanded, tuple(weights))

    def _expanded(self, weights: tuple[str, ...]) -> tuple[Memory, Loan | None]:
        away = [] if self.resting is None else [name for name in weights if name in self.resting]
        made, dtype = dict[str, Future[torch.Tensor]](), DTYPES[self._computed_in]

        def came(name: str, values: torch.Tensor) -> None:
            made[name] = self._converter.submit(copied, values, dtype)

        loan = self.resting.lend(away, came=came) if self.resting is not None and away else None
        found = {}
        for name in weights:
            if name in self._parts:
                continue
            plain = is_plain(self._forms[name], self._how)
            value = made[name].result() if name in made else self.tensor(name)
            found[name if plain else name + FLOATS] = value
        return found, loan

    def _as_read(self, name: str, first: int, stop: int) -> torch.Tensor:
        """Rows of what learns, before anything was learned."""
        return self._floats(name, first, stop, exact=True)

    def _hold(self, weight: WeightForm) -> None:
        if not weight.is_matrix:
            self._held[weight.name] = torch.from_numpy(self._store.vector(weight.name))
        elif self._how is not None and self._how.divides(weight):
            self._parts[weight.name] = self._part(weight)
        elif weight.packed:
            self._strips[weight.name] = self._packed(weight, slice(0, weight.num_strips))
        elif weight.format in DTYPES:
            self._held[weight.name] = self._floats(weight.name, 0, weight.shape[0], DTYPES[weight.format])

    def _part(self, weight: WeightForm) -> torch.Tensor:
        """What this process holds of a matrix: strips of 16 rows where it is packed, otherwise rows."""
        if weight.packed:
            return torch.from_numpy(self._packed(weight, self.ranks.rows(weight.num_strips)))
        own = self.ranks.rows(weight.shape[0])
        return self._floats(weight.name, own.start, own.stop, DTYPES[weight.format])

    def divides(self, name: str) -> bool:
        """Whether a weight is shared out among processes."""
        return name in self._parts

    def gathered(self, name: str) -> torch.Tensor:
        """A matrix that is shared out, whole, as rows meet it; all processes ask for it."""
        weight = self._forms[name]
        if not weight.packed:
            return self.ranks.whole(self._parts[name], weight.shape[0]).to(DTYPES[self._computed_in])
        self._strips[name] = self.ranks.whole(self._parts[name], weight.num_strips).numpy()
        try:
            return self._floats(name, 0, weight.shape[0])
        finally:
            del self._strips[name]

    def _floats(
        self, name: str, first: int, stop: int, dtype: torch.dtype | None = None, exact: bool = False
    ) -> torch.Tensor:
        """Rows [first, stop) in the dtype that products are computed in; `exact` as they are, in float32."""
        weight = self._forms[name]
        columns = weight.shape[1]
        chosen = torch.float32 if exact else dtype or DTYPES[self._computed_in]
        out = room((stop - first, columns), chosen)
        if name in self._strips and not encoding(weight.format).num_apart:
            expand(self._strips[name], weight.format, first, out)
            return out
        step = max(STRIP_ROWS, CHUNK_VALUES // columns // STRIP_ROWS * STRIP_ROWS)
        for at in range(first, stop, step):
            end = min(stop, at + step)
            out[at - first : end - first] = torch.from_numpy(self._decoded(weight, at, end))
        return out

    def _decoded(self, weight: WeightForm, first: int, stop: int) -> NDArray[np.float32]:
        columns = weight.shape[1]
        if weight.name in self._strips:
            from_strip, to_strip = first // STRIP_ROWS, -(-stop // STRIP_ROWS)
            strips = self._strips[weight.name][from_strip:to_strip]
            found = unpack(strips, weight.format, (to_strip - from_strip) * STRIP_ROWS, columns)
            return found[first - from_strip * STRIP_ROWS : stop - from_strip * STRIP_ROWS]
        source = self._sources[weight.name]
        with self._reading:
            raw = self._store.read(source, first, stop - first)
        return decode(raw, source.dtype, columns)

    def _packed(self, weight: WeightForm, strips: slice) -> Bytes:
        """Some of a weight's strips, as its plan promises them."""
        if self._prepared is not None and weight.name in self._prepared.names:
            return self._prepared.strips(weight.name, strips.start, strips.stop - strips.start)
        source, columns = self._sources[weight.name], weight.shape[1]
        step = max(STRIP_ROWS, CHUNK_VALUES // columns // STRIP_ROWS * STRIP_ROWS)
        out: Any = np.empty((strips.stop - strips.start, weight.strip_bytes), np.uint8)
        stop = min(weight.shape[0], strips.stop * STRIP_ROWS)
        for first in range(strips.start * STRIP_ROWS, stop, step):
            count = min(step, stop - first)
            rows = SourceRows(source.dtype, self._store.read(source, first, count), columns)
            made = next(found for one in self._steps if (found := one.convert(weight, rows)) is not None)
            at = first // STRIP_ROWS - strips.start
            out[at : at + len(made)] = made
        return np.asarray(out)
