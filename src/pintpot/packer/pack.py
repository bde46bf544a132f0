"""Packing: the folder appears whole or not at all, and what an earlier start left behind is swept away."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from pintpot.errors import BadPack, DiskTooSmall, PintpotError, UsageError, need
from pintpot.meter.disk import ask_room
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.model.tokens import TokenizerSource, from_folder, from_gguf
from pintpot.packer.build import Builder
from pintpot.packer.checks import crc32c
from pintpot.packer.layout import FileLayout, lay_out_file
from pintpot.packer.manifest import CHECK_BYTES, MANIFEST, WEIGHTS, Manifest, read_raw
from pintpot.planner.assess import rebuild_work
from pintpot.planner.plan import Plan
from pintpot.stream.writer import Writer

Progress = Callable[[int, int], None]
PARTIAL = ".partial"


def write_pack(model: Model, plan: Plan, folder: Path, progress: Progress | None = None) -> Path:
    """Pack a model by a plan into `folder`, reading and converting a few strips at a time.

    `progress(done, total)` is told bytes of the weight file. Raises UsageError where the folder holds something else,
    DiskTooSmall before or while writing, BadInput for weights that cannot be converted; the folder then does not exist.
    """
    need(model.digest == plan.model_digest, f"the plan is for {plan.model_name}, not for {model.name}", UsageError)
    folder = folder.absolute()
    if folder.exists() and not is_pack(folder):
        raise UsageError(f"{folder} exists and is no pack; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    layout = lay_out_file(plan.form, rebuild_work(plan))
    with _partial(folder) as partial:
        ask_room(folder.parent, layout.num_bytes + (8 << 20))
        try:
            _fill(partial, model, plan, layout, progress)
        except OSError as error:
            if error.errno == 28:
                raise DiskTooSmall(f"{folder.parent} is full: {layout.num_bytes} bytes were needed") from error
            raise PintpotError(f"cannot write {folder}: {error}") from error
        _replace(partial, folder)
    return folder


def is_pack(folder: Path) -> bool:
    """Whether a folder holds a pack of this or another format."""
    try:
        read_raw(folder)
    except BadPack:
        return (folder / MANIFEST).exists() and (folder / WEIGHTS).exists()
    return True


def _fill(partial: Path, model: Model, plan: Plan, layout: FileLayout, progress: Progress | None) -> None:
    tokenizer_of(model).save(partial)
    with Store(model) as store, _Sink(partial / WEIGHTS, layout.num_bytes, progress) as sink:
        builder = Builder(model, plan.form, plan.steps, store)
        sink.write(layout.header)
        start = len(layout.header)
        sink.begin()
        for item in layout.residents:
            sink.pad_to(start + item.offset)
            for part in builder.resident(item.name):
                sink.write(part)
        sink.pad_to(start + layout.resident_bytes)
        resident_crcs = sink.end()
        slots = tuple(
            (offset, sink.write_whole(builder.slot(slot)), slot)
            for offset, slot in zip(layout.slot_offsets, layout.slots, strict=True)
        )
    manifest = Manifest(
        plan=plan.without_reasons(),
        source=model.source,
        context=model.context,
        tokenizer=model.tokenizer,
        file_bytes=layout.num_bytes,
        resident_offset=layout.resident_offset,
        resident_bytes=layout.resident_bytes,
        residents=layout.residents,
        resident_crcs=resident_crcs,
        slots=slots,
        num_passing=layout.num_passing,
    )
    with (partial / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(manifest.dumps())
        file.flush()
        os.fsync(file.fileno())


def tokenizer_of(model: Model) -> TokenizerSource:
    """The tokenizer that lies beside a model's weights."""
    if model.source.kind == "gguf":
        from pintpot.model.gguf import open_gguf

        return from_gguf(open_gguf(Path(model.source.files[0])))
    return from_folder(Path(model.source.path))


class _Sink:
    """The weight file being written: keeps checksums of what passes, and the place."""

    def __init__(self, path: Path, num_bytes: int, progress: Progress | None) -> None:
        self._writer = Writer(path)
        self._total, self._progress = num_bytes, progress
        self._done = 0
        self._crcs: list[int] | None = None
        self._run, self._in_run = 0, 0

    def __enter__(self) -> _Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, data: object) -> None:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        self._writer.write(view)
        self._done += len(view)
        if self._crcs is not None:
            self._check(view)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def write_whole(self, data: object) -> int:
        """Write and return the CRC-32C of it alone."""
        self.write(data)
        return crc32c(memoryview(data).cast("B"))  # type: ignore[arg-type]

    def pad_to(self, offset: int) -> None:
        if offset > self._done:
            self.write(bytes(offset - self._done))

    def begin(self) -> None:
        self._crcs, self._run, self._in_run = [], 0, 0

    def end(self) -> tuple[int, ...]:
        crcs = self._crcs or []
        if self._in_run:
            crcs.append(self._run)
        self._crcs = None
        return tuple(crcs)

    def _check(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            part = view[at : at + CHECK_BYTES - self._in_run]
            self._run = crc32c(part, self._run)
            self._in_run += len(part)
            at += len(part)
            if self._in_run == CHECK_BYTES and self._crcs is not None:
                self._crcs.append(self._run)
                self._run, self._in_run = 0, 0


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A locked folder beside the target; those of processes that died are removed first."""
    sweep(folder.parent)
    partial = folder.with_name(f"{folder.name}{PARTIAL}-{os.getpid()}")
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield partial
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed packings left in a folder; what a living process still writes is locked, and stays."""
    for path in parent.glob(f"*{PARTIAL}-*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _replace(partial: Path, folder: Path) -> None:
    """Put a finished folder in its place; a pack that was there goes first to a name that the next sweep removes."""
    if folder.exists():
        old = folder.with_name(f"{folder.name}{PARTIAL}-old-{os.getpid()}")
        os.rename(folder, old)
        os.rename(partial, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(partial, folder)
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
