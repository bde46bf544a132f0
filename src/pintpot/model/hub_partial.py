"""Large files of the hub, fetched so that whatever ends the process, the next start asks only for the rest.

Since its version 1.18 huggingface_hub writes every download under a name drawn for it and never reads that file again
(https://github.com/huggingface/huggingface_hub/pull/4306: where locks do not work, two processes appended to one
file), and its Xet transfer writes out of order. So a large file comes by plain ranges, over huggingface_hub's own
connection, into a file beside the blobs of its cache that is named for the content and takes the blob's place when
whole; huggingface_hub then finds the blob and links to it. Each byte is written at its own offset, so two processes
that a lock does not keep apart write the same bytes to the same places.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pintpot.errors import BadInput
from pintpot.model.hub_files import TIMEOUT_S, fetch, mapped

_log = logging.getLogger(__name__)
_SUFFIX: Final = ".pintpot.incomplete"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def fetch_large(repo: str, name: str, revision: str) -> Path:
    """The file in huggingface_hub's cache, fetched where it is not there; `revision` is a commit.

    What a killed process had received is kept, but for the last 10 MiB. A file that changed on the hub (its ETag did)
    starts anew. One put together in several starts is checked against its SHA-256 where the hub gives it (it does for
    every large file). Files above what the hub sends by plain requests (50 GB) come through huggingface_hub, whole.
    Raises BadInput where the hub fails.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, name, revision=revision)
    with mapped(repo):
        about = get_hf_file_metadata(url, timeout=TIMEOUT_S)
    etag, size = about.etag or "", about.size
    usable = size is not None and size <= constants.MAX_HTTP_DOWNLOAD_SIZE and re.fullmatch(r"\w[\w.-]*", etag)
    if usable and size is not None:
        blobs = _blobs(repo)
        with mapped(repo):
            _drop_changed(blobs, name, etag)
            if not (blobs / etag).exists():
                _complete(url, name, blobs / etag, blobs / f"{_key(name)}-{etag}{_SUFFIX}", size)
    return fetch(repo, name, revision)


def partial_bytes(repo: str, name: str) -> int:
    """How much of a file earlier starts have already put on the disk."""
    return sum(path.stat().st_size for path in _blobs(repo).glob(f"{_key(name)}-*{_SUFFIX}"))


def _blobs(repo: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"


def _key(name: str) -> str:
    """A name without folders, of one length, for a file of the repository."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _drop_changed(blobs: Path, name: str, etag: str) -> None:
    """Remove what is left of earlier contents of this file, unless a process is still at it."""
    for path in blobs.glob(f"{_key(name)}-*{_SUFFIX}"):
        if path.name == f"{_key(name)}-{etag}{_SUFFIX}":
            continue
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as old:
            fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            _log.warning("%s changed on the hub since its download began; it starts anew", name)


def _complete(url: str, name: str, blob: Path, partial: Path, size: int) -> None:
    """Bring `partial` to its full size, check it, and move it to `blob`."""
    with _alone(partial) as handle:
        if blob.exists():
            partial.unlink(missing_ok=True)
            return
        had = os.fstat(handle).st_size
        if had > size:
            os.ftruncate(handle, had := 0)
        if had:
            _log.info("%s: goes on at byte %d of %d", name, had, size)
        _receive(url, name, handle, had, size)
        if had and not _is_sound(handle, blob.name):
            _log.warning("%s: what was kept of an earlier download is damaged; it starts anew", name)
            os.ftruncate(handle, 0)
            _receive(url, name, handle, 0, size)
        with suppress(FileNotFoundError):
            partial.replace(blob)
    if not blob.exists():
        raise BadInput(f"{name}: {partial} was removed while it was being fetched; start again")


@contextmanager
def _alone(partial: Path) -> Iterator[int]:
    """The file open for reading and writing, locked: another process that fetches it waits here until it is done."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that fetches %s", partial.name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _receive(url: str, name: str, handle: int, had: int, size: int) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    with os.fdopen(os.dup(handle), "r+b") as file:
        file.seek(had)
        http_get(url, file, resume_size=had, headers=headers, expected_size=size, displayed_filename=name)


def _is_sound(handle: int, etag: str) -> bool:
    """Whether the bytes are those that the ETag names; True for an ETag that is no SHA-256."""
    if not _SHA256.fullmatch(etag):
        return True
    with os.fdopen(os.dup(handle), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest() == etag
