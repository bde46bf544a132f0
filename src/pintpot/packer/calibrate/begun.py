"""Arrays of a long computation, each on disk whole or not at all, so that a start that was ended is gone on with."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput

KEY = "asked.json"


class Begun:
    """A folder for one question; what another question left in it is removed. Raises BadInput where it cannot be."""

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(asked, sort_keys=True)
        try:
            if folder.exists() and not self._is_for(text):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / KEY).write_text(text)
        except OSError as error:
            raise BadInput(f"{folder} cannot be written ({error.strerror}); make room there") from error

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def get(self, name: str) -> NDArray[Any]:
        """What was put under a name. Raises BadInput where it is damaged or gone."""
        try:
            return np.asarray(np.load(self._path(name), allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"{self._path(name)} cannot be read ({error}); remove {self.folder}") from error

    def put(self, name: str, values: NDArray[Any]) -> None:
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                np.save(file, values, allow_pickle=False)
            os.replace(file.name, self._path(name))
        except OSError as error:
            raise BadInput(f"{self.folder} cannot be written ({error.strerror}); make room there") from error

    def drop(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def end(self) -> None:
        """Everything is done: the folder goes."""
        shutil.rmtree(self.folder)

    def _is_for(self, text: str) -> bool:
        try:
            return (self.folder / KEY).read_text() == text
        except OSError:
            return False

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"
