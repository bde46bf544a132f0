"""Packing: the folder appears whole or not at all, and what an earlier start left behind is swept away."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pintpot.contract.step import CALIBRATED
from pintpot.errors import BadInput, DiskTooSmall, InUse, PintpotError, UsageError, need
from pintpot.meter.disk import ask_room
from pintpot.meter.memory import peak_bytes
from pintpot.model.joined import LANGUAGE, part_folder
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.model.tokens import TokenizerSource, from_folder, from_gguf
from pintpot.packer.build import Builder
from pintpot.packer.draft import draft_of, settle
from pintpot.packer.layout import FileLayout, lay_out_file
from pintpot.packer.locks import alone
from pintpot.packer.manifest import Manifest, Packing, read_manifest
from pintpot.packer.raw import (
    CHECK_BYTES,
    MANIFEST,
    METADATA,
    OWN_FILES,
    TOKENIZER_FILES,
    WEIGHTS,
    is_pack,
    read_raw,
    small_file,
)
from pintpot.packer.sink import CheckedRuns, Progress, Sink
from pintpot.planner.plan import Plan
from pintpot.planner.rebuild import rebuild_work

if TYPE_CHECKING:
    from pintpot.contract.statistics import InputStatistics
    from pintpot.packer.calibrate.prepared import Prepared
    from pintpot.packer.calibrate.prompts import Prompts

Texts = Sequence[Sequence[int]]
Told = Callable[[float, str], None]
_log = logging.getLogger(__name__)
BESIDE_BYTES = 48 << 20
"""Room asked for the tokenizer and the manifest beside the weights."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_pack(
    model: Model,
    plan: Plan,
    folder: Path,
    progress: Progress | None = None,
    *,
    texts: Texts | Prompts | None = None,
    text: Path | None = None,
    pictured: Path | None = None,
    calibrating: Told | None = None,
) -> Path:
    """Pack a model by a plan into `folder`, reading and converting a few strips at a time.

    `progress(done, total)` is told bytes of the weight file. A plan whose rounding has to know what meets the weights
    is calibrated first, which `calibrating(share, what)` is told: over `texts` (token ids), else over those of the file
    `text`, else of the text on which the model's sensitivities were measured, else of the one that comes with the
    package; prompts with pictures, as `Prompts.save` wrote them to `pictured`, take the place of half of it. A pack
    that is there is replaced, unless somebody uses it.

    Raises UsageError where the folder holds something else, InUse, DiskTooSmall before or while writing, BadInput for
    weights that cannot be converted; what was there is then there still.
    """
    need(model.digest == plan.model_digest, f"the plan is for {plan.model_name}, not for {model.name}", UsageError)
    folder = folder.resolve()
    _refuse_other(folder)
    _refuse_used(folder, plan)
    layout = lay_out_file(plan.form, rebuild_work(plan))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        ask_room(folder.parent, layout.num_bytes + BESIDE_BYTES)
        on = _RoundedOn(texts, text, pictured)
        with _prepared(model, plan, folder, on, calibrating) as prepared, draft_of(folder) as draft:
            manifest = _fill(draft, model, plan, layout, progress, prepared)
            _settle(draft, folder, manifest)
    except OSError as error:
        if error.errno in _FULL:
            raise DiskTooSmall(f"{folder.parent} is full: {layout.num_bytes} bytes were needed") from error
        raise PintpotError(f"cannot write {folder}: {error.strerror}") from error
    return folder


@dataclass(frozen=True)
class _RoundedOn:
    """What weights are rounded on, as `write_pack` was told."""

    texts: Texts | Prompts | None
    text: Path | None
    pictured: Path | None

    def prompts(self, model: Model) -> Texts | Prompts:
        from pintpot.packer.calibrate.prompts import Prompts

        words = self.texts or _texts(model, self.text)
        if self.pictured is None or isinstance(words, Prompts):
            return words
        return Prompts.load(self.pictured).beside_some(words)


def _prepared(
    model: Model, plan: Plan, folder: Path, on: _RoundedOn, told: Told | None
) -> AbstractContextManager[Prepared | None]:
    prepares = reads = False
    if model.language is not None and any(step.facet in CALIBRATED for step in plan.steps):
        from pintpot.packer.calibrate.calibrate import calibrated, gathers, preparing

        prepares = calibrated(plan)
        reads = prepares and gathers(plan)
    if on.text is not None and not reads:
        _log.warning("no step of this plan looks at texts: %s is not read", on.text)
    if not prepares:
        return nullcontext()
    return preparing(model, plan, folder, on.prompts(model) if reads else (), told)


def _seen(model: Model, plan: Plan) -> dict[str, InputStatistics]:
    """What met the weights of modules, where a step rounds by it."""
    if model.language is not None or not any(step.facet in CALIBRATED for step in plan.steps):
        return {}
    from pintpot.packer.seen import seen_of

    return seen_of(model)


def _texts(model: Model, text: Path | None) -> Texts:
    from pintpot.packer.calibrate.texts import chosen_texts
    from pintpot.planner.sensitivity import table_key

    return chosen_texts(tokenizer_of(model), model.context, text, table_key(model))


def tokenizer_of(model: Model) -> TokenizerSource:
    """The tokenizer that lies beside a model's weights."""
    path = part_folder(Path(model.source.path), LANGUAGE)
    if path.suffix == ".gguf" or model.source.kind == "gguf":
        from pintpot.model.gguf import open_gguf

        return from_gguf(open_gguf(path))
    return from_folder(path)


def _save_small_files(model: Model, draft: Path) -> tuple[str, ...]:
    """The files beside the weights: the tokenizer's, and of a GGUF source its metadata; of a module its kind's."""
    if model.tokenizer is None:
        return _copy_files(model, draft)
    tokenizer_of(model).save(draft)
    if model.source.kind != "gguf":
        return TOKENIZER_FILES
    from pintpot.packer.metadata import save_metadata

    save_metadata(Path(model.source.files[0]), draft / METADATA)
    return (*TOKENIZER_FILES, METADATA)


def _copy_files(model: Model, draft: Path) -> tuple[str, ...]:
    """Of the files that a pack may hold those that the kind of a module asks for."""
    named = [name for part in model.parts for name in part.config.get("kind", {}).get("files", ())]
    kept = tuple(name for name in TOKENIZER_FILES if name in named)
    for name in kept:
        try:
            shutil.copyfile(Path(model.source.path) / name, draft / name)
        except OSError as error:
            raise BadInput(f"{model.source.path} has no {name} any more: {error.strerror}") from error
    return kept


def _refuse_other(folder: Path) -> None:
    """Raise UsageError unless the folder is missing, empty, or nothing but a pack."""
    if not folder.exists() and not folder.is_symlink():
        return
    need(folder.is_dir(), f"{folder} exists and is no folder; name another", UsageError)
    found = sorted(path.name for path in folder.iterdir())
    need(not found or is_pack(folder), f"{folder} exists and is no pack; name another folder", UsageError)
    others = ", ".join(name for name in found if name not in OWN_FILES)
    need(not others, f"{folder} holds {others}, which would be lost; name another folder", UsageError)


def _refuse_used(folder: Path, plan: Plan) -> None:
    """Raise InUse while somebody uses a pack of another plan here; one of this plan may turn out to be the same."""
    if not folder.exists() or not is_pack(folder):
        return
    try:
        with alone(folder):
            return
    except InUse:
        if read_raw(folder).get("plan") != json.loads(json.dumps(plan.without_reasons().to_json())):
            raise


def _settle(draft: Path, folder: Path, manifest: Manifest) -> None:
    try:
        settle(draft, folder)
    except InUse:
        # Another process packed the same and is running it already.
        if not read_manifest(folder)[0].same_pack(manifest):
            raise


def _fill(
    draft: Path,
    model: Model,
    plan: Plan,
    layout: FileLayout,
    progress: Progress | None,
    prepared: Prepared | None = None,
) -> Manifest:
    started = time.monotonic()
    small_files = _save_small_files(model, draft)
    with Store(model) as store, Sink(draft / WEIGHTS, layout.num_bytes, progress) as sink:
        builder = Builder(model, plan.form, plan.steps, store, prepared, _seen(model, plan))
        sink.write(layout.header)
        resident_crcs = _write_residents(sink, layout, builder)
        slots = tuple(
            (offset, builder.write_slot(sink, slot), slot)
            for offset, slot in zip(layout.slot_offsets, layout.slots, strict=True)
        )
        sample_digest = store.sample_digest()
    manifest = Manifest(
        plan=plan.without_reasons(),
        source=model.source,
        context=model.context,
        tokenizer=model.tokenizer,
        files=tuple(small_file(draft / name) for name in small_files),
        file_bytes=layout.num_bytes,
        resident_offset=layout.resident_offset,
        resident_bytes=layout.resident_bytes,
        residents=layout.residents,
        resident_crcs=resident_crcs,
        slots=slots,
        num_passing=layout.num_passing,
        packing=Packing(time.monotonic() - started, peak_bytes()),
        sample_digest=sample_digest,
    )
    (draft / MANIFEST).write_text(manifest.dumps(), encoding="utf-8")
    for path in draft.iterdir():
        _flush(path)
    return manifest


def _write_residents(sink: Sink, layout: FileLayout, builder: Builder) -> tuple[int, ...]:
    runs = CheckedRuns(sink, CHECK_BYTES)
    for item in layout.residents:
        runs.pad_to(item.offset)
        for part in builder.resident(item.name):
            runs.write(part.data)
    runs.pad_to(layout.resident_bytes)
    return runs.finish()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
