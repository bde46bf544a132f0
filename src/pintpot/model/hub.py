"""Models on the Hugging Face hub: described by range requests for kilobytes, then fetched whole where they are to run.

huggingface_hub's settings hold: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE. What its cache has is not asked for.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from pintpot.errors import BadInput, DiskTooSmall, NoFamily, need
from pintpot.model.gguf import join_splits, parse_gguf, split_names
from pintpot.model.hub_files import (
    TIMEOUT_S,
    HubFolder,
    Unreachable,
    cached,
    fetch,
    fetch_if_there,
    mapped,
    remember_commit,
)
from pintpot.model.hub_partial import fetch_large, partial_bytes
from pintpot.model.merged import merged
from pintpot.model.read import describe, describe_folder, describe_gguf
from pintpot.model.spec import Model, Source
from pintpot.units import format_bytes

_log = logging.getLogger(__name__)
_SMALL_FILES: Final = (
    "config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja",
    "model.safetensors.index.json",
)  # fmt: skip


def describe_hub(model_id: str, *, offline: bool | None = None) -> Model:
    """The model `org/name`, `org/name:file.gguf` or either with `@revision` behind it.

    Source.kind is "hub" (path `org/name@commit`, files by plain name) while weights are still to be fetched, and "hf"
    or "gguf" where the cache has them all. Without an answer from the hub the cache decides, and a warning says so.
    Raises BadInput where there is no such model, nor an answer and a copy.
    """
    from huggingface_hub import HfApi, constants

    repo_file, _, revision = model_id.partition("@")
    repo, _, file = repo_file.partition(":")
    if offline or (offline is None and constants.HF_HUB_OFFLINE):
        return _describe_cache(repo, file, revision or "main", f"{repo}: offline, and")
    try:
        with mapped(repo):
            info = HfApi().model_info(repo, revision=revision or None, timeout=TIMEOUT_S)
    except Unreachable as error:
        found = _describe_cache(repo, file, revision or "main", f"{error}; and")
        _log.warning("%s; described from the local cache", error)
        return found
    names = frozenset(sibling.rfilename for sibling in info.siblings or ())
    commit = info.sha or revision or "main"
    remember_commit(repo, revision or "main", commit)
    folder = HubFolder(repo, commit, names)
    model = _describe_remote_gguf(folder, file) if file or "config.json" not in names else _describe_remote(folder)
    return _local(model) or model


def _describe_remote(folder: HubFolder) -> Model:
    return describe_folder(folder, Source("hub", f"{folder.name}@{folder.revision}", ()), folder.name)


def _describe_remote_gguf(folder: HubFolder, file: str) -> Model:
    whole = sorted(name for name in folder.names() if name.endswith(".gguf") and split_names(name)[0] == name)
    if not file:
        need(len(whole) > 0, f"{folder.name} is no model: it has neither config.json nor a .gguf file", BadInput)
        need(
            len(whole) == 1,
            f"{folder.name} holds {len(whole)} GGUF models; name one: {folder.name}:{whole[0]}",
            BadInput,
        )
        file = whole[0]
    files = split_names(file)
    missing = [name for name in files if name not in folder.names()]
    need(not missing, f"{folder.name}: not there: {', '.join(missing[:4])}; there are {', '.join(whole[:6])}", BadInput)
    parts = tuple(parse_gguf(folder.open(name), number) for number, name in enumerate(files))
    gguf = parts[0] if len(parts) == 1 else join_splits(parts)
    return describe_gguf(gguf, Source("hub", f"{folder.name}@{folder.revision}", files))


def _describe_cache(repo: str, file: str, revision: str, why: str) -> Model:
    """The model as the cache has it. Raises BadInput beginning with `why` where something is lacking."""
    wanted = file or "config.json"
    found = cached(repo, wanted, revision)
    if found is None:
        raise BadInput(f"{why} the local cache has no {wanted} of it; fetch it once while online")
    try:
        model = describe(str(found if file else found.parent))
    except NoFamily:
        raise
    except BadInput as error:
        raise BadInput(f"{why} the local cache is incomplete: {error}") from error
    return model if file else replace(model, name=repo)


def _local(model: Model) -> Model | None:
    """The same model in the cache, where all its files are there."""
    repo, _, revision = model.source.path.rpartition("@")
    found = [cached(repo, name, revision) for name in (*model.source.files, *_tokenizer_files(model))]
    if not all(found) or found[0] is None:
        return None
    is_gguf = found[0].suffix == ".gguf"
    local = describe(str(found[0] if is_gguf else _root(found[0], model.source.files[0])))
    return local if is_gguf else replace(local, name=repo)


def _tokenizer_files(model: Model) -> tuple[str, ...]:
    if model.source.files[0].endswith(".gguf"):
        return ()
    kind = None if model.tokenizer is None else model.tokenizer.kind
    return ("tokenizer.model",) if kind == "spm" else ("tokenizer.json",)


def _root(path: Path, name: str) -> Path:
    """The snapshot folder in which `path` is called `name`."""
    return path.parents[name.count("/")]


def download(model: Model) -> Model:
    """Fetch the files of a model whose Source.kind is "hub" through huggingface_hub, with its progress bars; any other
    model comes back as it is. Returns the model as it lies in the cache. A cut connection goes on where it was, and so
    does a second call, in the middle of a file where the first one was killed there.

    Raises DiskTooSmall before the first byte where the cache's disk has no room, BadInput where the hub fails.
    """
    if model.source.kind != "hub":
        return model
    if model.source.merged is not None:
        return merged(download(describe(model.source.path)), Path(model.source.merged.folder))
    from huggingface_hub import constants

    repo, _, revision = model.source.path.rpartition("@")
    lacking = [name for name in model.source.files if cached(repo, name, revision) is None]
    numbers = {number for number, name in enumerate(model.source.files) if name in lacking}
    weights = (weight for part in model.parts for weight in part.weights())
    there = sum(partial_bytes(repo, name) for name in lacking)
    num_bytes = max(0, sum(weight.bytes_in(numbers) for weight in weights) - there)
    place = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    room = f"{repo}: {format_bytes(num_bytes)} are to be fetched, {format_bytes(free)} are free at {place}"
    need(num_bytes <= free, room, DiskTooSmall)
    small = () if model.source.files[0].endswith(".gguf") else _SMALL_FILES
    for name in small:
        fetch_if_there(repo, name, revision)
    for name in _tokenizer_files(model):
        fetch(repo, name, revision)
    for name in model.source.files:
        fetch_large(repo, name, revision)
    local = _local(model)
    if local is None:
        raise BadInput(f"{repo}: fetched, but not in the cache at {place}")
    return local
