"""What of an opening begins before the runtime is imported: the lock, and the weights on their way.

Native threads read and verify the weights while the interpreter is busy with its imports and the tokenizer; so little
is imported here. How much may be in memory by then is what the plan promised and nobody else will have taken.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pintpot.errors import BadPack, need
from pintpot.meter.memory import attainable_bytes
from pintpot.model.joined import VISION
from pintpot.model.tokens.memory import loading_peak_bytes
from pintpot.packer.locks import in_use
from pintpot.packer.raw import CHECK_BYTES, MANIFEST, WEIGHTS, read_unchanged
from pintpot.planner.names import LOADER, PROCESS, TOKENIZER, TORCH
from pintpot.stream.arena import open_arena
from pintpot.stream.loader import Loader

if TYPE_CHECKING:
    from pintpot._native import Arena

LEAST_BYTES = 4096


def sees(raw: dict[str, Any]) -> bool:
    """Whether a pack has a part that sees, by its manifest's text, which may be anybody's."""
    plan = raw.get("plan")
    parts = plan.get("parts") if isinstance(plan, dict) else None
    return isinstance(parts, list) and any(isinstance(part, dict) and part.get("name") == VISION for part in parts)


@dataclass(frozen=True)
class Found:
    """A pack that is there and locked; its manifest as JSON is unchanged. As a context manager it ends what has begun.

    Whoever opens it whole takes `closing` over, and nothing ends then.
    """

    folder: Path
    raw: dict[str, Any]
    closing: ExitStack

    @property
    def machine_fingerprint(self) -> str:
        """Of the machine that it was packed for."""
        return str(self.raw["plan"].get("machine_fingerprint", ""))

    @property
    def is_module(self) -> bool:
        """Whether it holds a module of PyTorch, which reads no text."""
        return self.raw.get("tokenizer") is None

    @property
    def sees(self) -> bool:
        """Whether a part of it makes rows of embedding of pictures, which takes PyTorch."""
        return sees(self.raw)

    def __enter__(self) -> Found:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.close()


@dataclass(frozen=True)
class Begun:
    """A pack whose weights are on their way into an arena."""

    pack: Found
    weights: Arena
    loader: Loader


def find(folder: Path) -> Found:
    """Lock a pack and read its manifest's text. Raises BadPack for one that was changed."""
    folder = folder.resolve()
    with ExitStack() as closing:
        closing.enter_context(in_use(folder))
        raw, _ = read_unchanged(folder)
        need(isinstance(raw.get("plan"), dict), f"{folder}: {MANIFEST} is not what a pack holds: no plan", BadPack)
        return Found(folder, raw, closing.pop_all())


def begin(pack: Found) -> Begun:
    """Start to read the weights. Raises BadPack."""
    folder, raw = pack.folder, pack.raw
    try:
        early = _early_bytes(raw)
        weights, loader = _weights(folder, raw, pack.closing)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadPack(f"{folder}: {MANIFEST} is not what a pack holds: {error}") from error
    loader.allow(early)
    return Begun(pack, weights, loader)


def _weights(folder: Path, raw: dict[str, Any], closing: ExitStack) -> tuple[Arena, Loader]:
    """Memory for the weights that stay, and what will fill it."""
    file, size, due = folder / WEIGHTS, raw["resident_bytes"], raw["file_bytes"]
    found = file.stat().st_size if file.exists() else None
    need(found is not None, f"{file} is missing", BadPack)
    need(found == due, f"{file} has {found} bytes, the manifest says {due}", BadPack)
    arena = open_arena(max(size, LEAST_BYTES), prefault=False)
    closing.callback(give_back, arena)
    loader = Loader(file, raw["resident_offset"], arena, size, raw["resident_crcs"], CHECK_BYTES)
    closing.callback(loader.close)
    return arena, loader


def _early_bytes(raw: dict[str, Any]) -> int:
    """How much of the weights may be there while the tokenizer is loaded, which for a while takes more than it keeps.

    Nothing of a pack that does not fit; whoever goes on with it says so.
    """
    holders = {holder["name"]: holder["high"] for holder in raw["plan"]["cost"]["holders"]}
    tokenizer, promised = raw["tokenizer"], sum(holders.values())
    if promised > attainable_bytes():
        return 0
    beside = holders[PROCESS] + holders[LOADER] + holders.get(TORCH, 0)
    if tokenizer is None:
        return int(max(0, promised - beside))
    loading = max(loading_peak_bytes(tokenizer["vocab_size"], tokenizer["num_merges"]), holders[TOKENIZER])
    return int(max(0, promised - beside - loading))


def give_back(arena: Arena) -> None:
    """Close an arena, or leave it to whoever still looks at it."""
    try:
        arena.close()
    except BufferError:
        return
