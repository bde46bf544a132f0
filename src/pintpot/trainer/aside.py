"""Insides of blocks on disk, from the way forward to the way back: written behind the one, read ahead of the other.

SSDTrain, Wu et al. 2024, arXiv:2408.10013. The tensors of an inside are copied together into memory of a pool, which a
thread of its own writes; on the way back another thread reads the next inside while one is gone back through. What is
still in memory when the way turns is not read. The file has all of its room from the start, and no name: it is gone
when the process is, however that ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Condition
from typing import Any

import torch

from pintpot.contract.resting import whole_blocks
from pintpot.errors import Interrupted, PintpotError
from pintpot.nets._moving import ASIDE
from pintpot.program.spec import Work
from pintpot.stream.regions import Regions
from pintpot.trainer.inside import Inside
from pintpot.trainer.places import bytes_of, pool_of

VECTOR = 64
"""Where in memory tensors begin."""
_LOOK_S = 0.2


@dataclass(frozen=True)
class Lies:
    """Where in memory a tensor lies: as it was, but for what lay between its values."""

    dtype: torch.dtype
    shape: torch.Size
    strides: tuple[int, ...]
    at: int

    @classmethod
    def of(cls, one: torch.Tensor, at: int) -> Lies:
        return cls(one.dtype, one.shape, torch.empty_like(one, device="meta").stride(), at)

    def within(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor, in that memory."""
        stop = self.at + self.shape.numel() * self.dtype.itemsize
        return memory[self.at : stop].view(self.dtype).as_strided(self.shape, self.strides)


@dataclass
class Piece:
    """An inside that is away: its number, of which later ones have larger ones, its place, and what it consists of."""

    number: int
    offset: int
    used: int
    tensors: tuple[Lies, ...]
    written: Future[None] | None = None
    coming: Future[torch.Tensor] | None = None


class Aside:
    """Room on disk for so many insides as a work writes out in a step, in a file at `path` that loses its name.

    `pool` has the memory of pieces by the number of what is in it: nothing of use where that is negative.
    Raises DiskTooSmall, before anything is learned, and DoesNotFit.
    """

    def __init__(self, path: Path, count_of: int, piece_bytes: int, on_their_way: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = Regions(path, count_of * piece_bytes)
        finally:
            path.unlink(missing_ok=True)
        # Numbers below are those of memory that nobody has used yet.
        self._piece_bytes, self._next, self._numbers = piece_bytes, 0, count(on_their_way)
        memory = pool_of(on_their_way, piece_bytes)
        self._pool = {-1 - at: memory.get() for at in range(on_their_way)}
        self._given = Condition()
        self._away: dict[Inside[Any], Piece] = {}
        self._writer = ThreadPoolExecutor(1, "insides behind")
        self._reader = ThreadPoolExecutor(1, "insides ahead")
        self._broken: PintpotError | None = None
        self._closing = False

    @classmethod
    def opened(cls, path: Path, work: Work) -> Aside | None:
        """What a work writes out, None where it writes nothing. A file that a start left which was ended is removed."""
        path.unlink(missing_ok=True)
        forward = work.stage("forward").programs[0]
        pieces = sum(int(op.get("pieces")) for op in forward.ops if op.kind == "aside")
        if not pieces:
            return None
        on_their_way, piece_bytes = forward.shape(ASIDE)
        return cls(path, pieces, piece_bytes, on_their_way)

    def put(self, inside: Inside[Any]) -> None:
        """Take all that an inside holds; waits for memory. Raises what went wrong while writing."""
        number, memory = next(self._numbers), self._taken()[1]
        at, tensors = 0, list[Lies]()
        for one in inside.tensors:
            tensors.append(Lies.of(one, at))
            tensors[-1].within(memory).copy_(one)
            at += -(-one.nbytes // VECTOR) * VECTOR
        inside.tensors.clear()
        piece = Piece(number, self._next * self._piece_bytes, whole_blocks(at), tuple(tensors))
        piece.written = self._writer.submit(self._write, piece, memory)
        self._away[inside] = piece
        self._next += 1

    def turn(self, insides: Iterable[Inside[Any]]) -> None:
        """Now they are wanted, in this order, those that are away among them."""
        for inside in insides:
            if inside in self._away:
                piece = self._away[inside]
                piece.coming = self._reader.submit(self._read, piece)
        self._next = 0

    def returned(self, insides: Iterable[Inside[Any]]) -> Iterator[Inside[Any]]:
        """Each with all that it held, until the next one is asked for. Raises what went wrong on disk."""
        for inside in insides:
            piece = self._away.pop(inside, None)
            if piece is None or piece.coming is None:
                yield inside
                continue
            memory = piece.coming.result()
            inside.tensors.extend(one.within(memory) for one in piece.tensors)
            yield inside
            inside.tensors.clear()
            self._give(~piece.number, memory)

    def close(self) -> None:
        """End all reading and writing; the room on disk is free again."""
        with self._given:
            self._closing = True
            self._given.notify_all()
        self._writer.shutdown(cancel_futures=True)
        self._reader.shutdown(cancel_futures=True)
        self._file.close()

    def _write(self, piece: Piece, memory: torch.Tensor) -> None:
        """What went wrong is kept for who comes next."""
        try:
            if self._broken is None:
                self._file.write(piece.offset, bytes_of(memory[: piece.used]))
        except PintpotError as error:
            self._broken = error
        finally:
            self._give(piece.number, memory)

    def _read(self, piece: Piece) -> torch.Tensor:
        if piece.written is not None:
            piece.written.result()
        number, memory = self._taken(piece.number)
        if number != piece.number:
            self._file.read(piece.offset, bytes_of(memory[: piece.used]))
        return memory

    def _taken(self, number: int = -1) -> tuple[int, torch.Tensor]:
        """Memory with what has that number, or else with what is wanted last; waits until there is some."""
        with self._given:
            while not self._pool and not self._closing:
                self._given.wait(_LOOK_S)
            if self._broken is not None:
                raise self._broken
            if self._closing:
                raise Interrupted("learning ended")
            found = number if number in self._pool else min(self._pool)
            return found, self._pool.pop(found)

    def _give(self, number: int, memory: torch.Tensor) -> None:
        with self._given:
            self._pool[number] = memory
            self._given.notify_all()
