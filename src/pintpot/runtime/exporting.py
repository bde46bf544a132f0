"""The process that records the module in a `.pt2` file of torch.export, without running it or anything in the file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pintpot.errors import UnsupportedModel
from pintpot.kernels.torch.exported import read_exported
from pintpot.nets._recorded import adapt
from pintpot.packer.apart import serve
from pintpot.packer.draft import settle_new


def record_exported(path: Path, place: Path) -> None:
    """Record a file's module into `place`, which appears whole or not at all; its weights are copied there.

    Raises BadFile for what is no such file, UnsupportedModel with what stands against it.
    """
    module = read_exported(path).eval()
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        adapt(module, module.inputs, name=path.stem, folder=draft, run=False)
        settle_new(draft, place)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise UnsupportedModel(f"{path.name} does not compute what it says: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _answer(request: dict[str, Any], progress: Callable[[float, str], None]) -> dict[str, Any]:
    progress(0.3, "recording it")
    record_exported(Path(request["file"]), Path(request["place"]))
    return {"place": request["place"]}


if __name__ == "__main__":
    serve(_answer)
