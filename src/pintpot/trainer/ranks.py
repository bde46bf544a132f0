"""Processes that learn one model together, as `torchrun` starts them; a process by itself is the first of one.

The engine is torch.distributed's own: a matrix is a DTensor whose rows are shared out over a mesh; it is gathered where
it is multiplied with, and gradients are summed to the processes that hold their rows. Tensors on a CPU travel by gloo,
those on a GPU by NCCL.

    with joined() as ranks:
        part = whole[ranks.rows(len(whole))]
        ranks.whole(part, len(whole)), ranks.part(grad), ranks.total(loss)
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

from pintpot.errors import EndedElsewhere, PintpotError, UsageError, need

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.distributed_c10d import Store

_ENDED = "pintpot/ended"
_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 60.0


class Ranks(ABC):
    """This process is number `number` of `count`. All of them ask for the same things in the same order."""

    number = 0
    count = 1

    def rows(self, num_rows: int) -> slice:
        """The rows of a matrix that this process holds; the last ones may hold fewer, or none."""
        each = -(-num_rows // self.count)
        return slice(min(num_rows, self.number * each), min(num_rows, (self.number + 1) * each))

    def share(self, number: int, what: str) -> int:
        """What of so many falls to each process. Raises UsageError where they cannot be shared out evenly."""
        why = f"{number} {what} cannot be shared out among {self.count} processes; ask for a multiple of {self.count}"
        need(number % self.count == 0, why, UsageError)
        return number // self.count

    def check(self, part: object, adapter: str) -> None:
        """Raises UsageError for what is not shared out: parts that learn, techniques beside, several adapters."""
        fits = self.count == 1 or (not part and adapter == "lora")
        why = (
            "under torchrun all of a model or plain adapters learn; parts of it and several adapters take one process, "
            "and so do freezing and sparse training"
        )
        need(fits, why, UsageError)

    @abstractmethod
    def whole(self, part: torch.Tensor, num_rows: int) -> torch.Tensor:
        """All rows, of which this process gives its own."""

    @abstractmethod
    def part(self, grad: torch.Tensor) -> torch.Tensor:
        """The sum of everybody's gradients of a matrix [N, K], the rows that this process holds."""

    def summed(self, grads: Mapping[str, torch.Tensor], shared: Container[str]) -> dict[str, torch.Tensor]:
        """Gradients by the words of all processes; of what is `shared` those of the rows that this one holds."""
        return {name: self.part(one) if name in shared else self.total(one) for name, one in grads.items()}

    @abstractmethod
    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of everybody's values."""

    @abstractmethod
    def told(self, text: str) -> str:
        """What the first process says."""


@final
class Alone(Ranks):
    """A single process: everything is its own."""

    def whole(self, part: torch.Tensor, num_rows: int) -> torch.Tensor:
        return part

    def part(self, grad: torch.Tensor) -> torch.Tensor:
        return grad

    def total(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def told(self, text: str) -> str:
        return text


ALONE = Alone()


@final
class Together(Ranks):
    """Several processes in one process group."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.number, self.count = int(mesh.get_rank()), int(mesh.size())
        self._mesh = mesh

    def whole(self, part: torch.Tensor, num_rows: int) -> torch.Tensor:
        import torch
        from torch.distributed.tensor import DTensor, Shard

        shape = torch.Size((num_rows, *part.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        with _met(), torch.no_grad():
            shared = DTensor.from_local(part, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
            return shared.full_tensor().contiguous()

    def part(self, grad: torch.Tensor) -> torch.Tensor:
        from torch.distributed.tensor import Shard

        return self._summed(grad, Shard(0))

    def total(self, value: torch.Tensor) -> torch.Tensor:
        from torch.distributed.tensor import Replicate

        return self._summed(value, Replicate())

    def told(self, text: str) -> str:
        import torch

        size = int(self.total(torch.tensor([len(text.encode()) if self.number == 0 else 0]))[0])
        own = text.encode() if self.number == 0 else bytes(size)
        said = self.total(torch.frombuffer(bytearray(own), dtype=torch.uint8).int())
        return bytes(said.to(torch.uint8).numpy()).decode()

    def _summed(self, value: torch.Tensor, placement: Any) -> torch.Tensor:
        import torch
        from torch.distributed.tensor import DTensor, Partial

        with _met(), torch.no_grad():
            shared = DTensor.from_local(value, self._mesh, [Partial()], run_check=False)
            made: torch.Tensor = shared.redistribute(self._mesh, [placement]).to_local()
            return made.contiguous()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes of this run, for as long as they work together.

    Where one of them fails it raises its error, and all others EndedElsewhere. Where whoever started them is gone, all
    are: nobody learns on behind somebody who starts again. Raises UsageError where PyTorch has no torch.distributed.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    need(dist.is_available(), "this PyTorch was built without torch.distributed; start one process", UsageError)
    from torch.distributed.device_mesh import init_device_mesh

    _end_with_starter()
    fast = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if fast else "gloo")
    store = dist.distributed_c10d._get_default_store()
    try:
        yield Together(init_device_mesh("cpu", (count,)))
    except PintpotError as error:
        if isinstance(error, EndedElsewhere) or not _is_first(store):
            raise EndedElsewhere("another of the processes ended, and says why") from error
        raise
    finally:
        dist.destroy_process_group()


def _end_with_starter() -> None:
    """Have this process killed where `torchrun` ends before it, however that is; on systems that can.

    Raises EndedElsewhere where it has ended already, which the store that it held tells: nobody answers there, and a
    process group would ask for half an hour.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            socket.create_connection(place, _PATIENCE_S).close()
        except ConnectionRefusedError as error:
            raise EndedElsewhere("what started this process has ended") from error


def _is_first(store: Store) -> bool:
    """Whether this process is the first that has something to say; the others say nothing."""
    own = os.environ["RANK"]
    try:
        return bytes(store.compare_set(_ENDED, "", own)).decode() == own
    except RuntimeError:
        return True  # nobody is left to ask


@contextmanager
def _met() -> Iterator[None]:
    """What the process group says where another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise EndedElsewhere(f"another of the processes is gone: {error}") from error


def started_together() -> tuple[int, int, int]:
    """(number, count, how many are on this machine) of the processes of this run, as `torchrun` has told them."""
    names = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1"))
    number, count, here = (int(os.environ.get(name, default)) for name, default in names)
    return number, count, here
