"""A folder of the hub fetched whole: what transformers builds a module of, and the weights beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pintpot.errors import BadInput, need
from pintpot.model.hub_files import TIMEOUT_S, Unreachable, cached, fetch, mapped, remember_commit
from pintpot.model.hub_partial import fetch_large
from pintpot.model.read import checkpoint
from pintpot.model.safetensors import read_index
from pintpot.model.source import LocalFolder

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
SMALL_FILES: Final = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "generation_config.json", INDEX,
)  # fmt: skip


def fetch_folder(model_id: str, *, offline: bool | None = None) -> Path:
    """The folder of `org/name` or `org/name@revision` in the hub's cache, with its weights in safetensors.

    Raises BadInput where there is no such model, no weights in safetensors, or no answer and no copy.
    """
    from huggingface_hub import HfApi, constants

    repo, _, revision = model_id.partition("@")
    config = cached(repo, "config.json", revision or "main")
    if offline or (offline is None and constants.HF_HUB_OFFLINE):
        return _whole(config, f"{repo}: offline")
    try:
        with mapped(repo):
            info = HfApi().model_info(repo, revision=revision or None, timeout=TIMEOUT_S)
    except Unreachable as error:
        return _whole(config, str(error))
    names = frozenset(sibling.rfilename for sibling in info.siblings or ())
    commit = info.sha or revision or "main"
    remember_commit(repo, revision or "main", commit)
    need("config.json" in names, f"{repo}: there is no config.json in it", BadInput)
    for name in SMALL_FILES:
        if name in names:
            fetch(repo, name, commit)
    folder = fetch(repo, "config.json", commit).parent
    # The same weights often lie there in other forms and precisions as well.
    need(INDEX in names or SINGLE in names, f"{repo}: there are no weights in safetensors in it", BadInput)
    wanted = {SINGLE}
    if INDEX in names:
        wanted = set(read_index((folder / INDEX).read_text(encoding="utf-8"), f"{repo}/{INDEX}").values())
    for name in sorted(wanted):
        fetch_large(repo, name, commit)
    return folder


def _whole(config: Path | None, why: str) -> Path:
    """The copy in the cache. Raises BadInput beginning with `why` where something is lacking."""
    if config is None:
        raise BadInput(f"{why}, and the local cache has no copy; fetch it once while online")
    try:
        checkpoint(LocalFolder(config.parent))
    except BadInput as error:
        raise BadInput(f"{why}, and the local cache is incomplete: {error}") from error
    return config.parent
