"""Files on the Hugging Face hub: by ranges, or through huggingface_hub's cache, its errors raised as ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pintpot.errors import BadFile, BadInput, need
from pintpot.model.source import ByteSource, LocalFile, checked_text_size, decode_text

_log = logging.getLogger(__name__)
TIMEOUT_S = 30.0
_FIRST_BYTES = 16 * 1024
_CONTENT_RANGE = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+)")


class Unreachable(BadInput):
    """The hub did not answer; what the cache has may do."""


@contextmanager
def mapped(repo: str) -> Iterator[None]:
    """Raise huggingface_hub's errors as ours, with the remedy."""
    from huggingface_hub import errors

    # The HTTP library's own root, whichever one this huggingface_hub uses.
    roots = [base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    network: tuple[type[Exception], ...] = (errors.HfHubHTTPError, OSError, *roots)
    try:
        yield
    except errors.GatedRepoError as error:
        raise BadInput(f"{repo}: asks for consent; accept its terms on the hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise BadInput(
            f"{repo}: no such path here and no such model on the hub (where it is private, set HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BadInput(f"{repo}: no such revision on the hub") from error
    except errors.OfflineModeIsEnabled as error:
        raise Unreachable(f"{repo}: not asked for, because HF_HUB_OFFLINE is set") from error
    except errors.HFValidationError as error:
        raise BadInput(f"{repo}: {error}") from error
    except network as error:
        raise Unreachable(f"{repo}: the hub does not answer: {str(error) or type(error).__name__}") from error


class RemoteFile:
    """A file on the hub, read by ranges. The first read tells its size and keeps its beginning."""

    def __init__(self, repo: str, name: str, revision: str) -> None:
        from huggingface_hub import hf_hub_url

        self.name = name
        self._repo = repo
        self._url = hf_hub_url(repo, name, revision=revision)
        self._first, self.size = self._get(0, _FIRST_BYTES)

    def read(self, offset: int, count: int) -> bytes:
        need(offset >= 0 and 0 <= count <= self.size - offset, f"{self.name}: ends at byte {self.size}", BadFile)
        if offset + count <= len(self._first):
            return self._first[offset : offset + count]
        data, _ = self._get(offset, count)
        need(len(data) == count, f"{self.name}: asked for {count} bytes at {offset}, got {len(data)}", BadFile)
        return data

    def _get(self, offset: int, count: int) -> tuple[bytes, int]:
        """At most `count` bytes from `offset` on, and the size of the whole file."""
        from huggingface_hub import get_session, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={offset}-{offset + count - 1}"}
        with mapped(self._repo), get_session().stream("GET", self._url, headers=headers, timeout=TIMEOUT_S) as reply:
            found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
            if reply.status_code == 416 and found:
                return b"", int(found[1])
            hf_raise_for_status(reply)
            told = reply.headers.get("Content-Length", "")
            length = int(told) if told.isdecimal() else -1
            if reply.status_code == 200 and offset == 0 and 0 <= length <= count:
                return _body(reply.iter_bytes(), length), length
            if reply.status_code != 206 or found is None:
                raise BadInput(f"{self._repo}: the server sends {self.name} whole or not at all; ranges are needed")
            return _body(reply.iter_bytes(), count), int(found[1])


def _body(chunks: Iterator[bytes], limit: int) -> bytes:
    """The chunks as one, no more than was asked for."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > limit:
            raise BadFile(f"the server sends more than the {limit} bytes that were asked for")
    return bytes(data)


class HubFolder:
    """A repository at one revision. Small texts go through huggingface_hub's cache, headers come by ranges."""

    def __init__(self, repo: str, revision: str, names: frozenset[str]) -> None:
        self.name = repo
        self.revision = revision
        self._names = names

    def names(self) -> frozenset[str]:
        return self._names

    def text(self, name: str) -> str | None:
        if name not in self._names:
            return None
        file = LocalFile(fetch(self.name, name, self.revision))
        return decode_text(file.read(0, checked_text_size(file)), f"{self.name}/{name}")

    def open(self, name: str) -> ByteSource:
        found = cached(self.name, name, self.revision)
        return LocalFile(found) if found else RemoteFile(self.name, name, self.revision)


def fetch(repo: str, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    with mapped(repo):
        return Path(hf_hub_download(repo, name, revision=revision))


def cached(repo: str, name: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    with mapped(repo):
        found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def remember_commit(repo: str, revision: str, commit: str) -> None:
    """Note in the cache which commit a branch or tag is, so that its files are found under that name while offline.

    Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache (refs hold commits).
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    refs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "refs"
    if revision == commit or not re.fullmatch(r"\w[\w.-]*", revision):
        return
    with mapped(repo):
        refs.mkdir(parents=True, exist_ok=True)
        (refs / revision).write_text(commit, encoding="utf-8")


def fetch_if_there(repo: str, name: str, revision: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with mapped(repo):
        try:
            hf_hub_download(repo, name, revision=revision)
        except EntryNotFoundError:
            _log.debug("%s has no %s", repo, name)
