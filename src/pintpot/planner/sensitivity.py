"""What each weight of a model costs in quality in each format: measured once a model, in `<home>/sensitivities`.

A table belongs to the weights that it was measured on (not to their shapes: every training of a network has its own),
and to the grids that formats rounded to when it was. On another text it says the same but for noise, so there is one
for each model, which says what text it is from.

The losses of single weights add up while they are small (Malinovskii et al. 2024, arXiv:2411.17525), so a form's
degradation is the sum over its weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.step import Step
from pintpot.errors import BadInput, need
from pintpot.formats import GRIDS, encoding, is_lossless
from pintpot.meter.home import home
from pintpot.meter.records import locked, write_record
from pintpot.model.spec import Model
from pintpot.model.store import Store

VERSION = 1
_log = logging.getLogger(__name__)
Nats = tuple[float, float]
"""Mean KL divergence in nats per token, low..high."""


@dataclass(frozen=True)
class Sensitivities:
    """Of each matrix, by format, what keeping it alone so costs; found over `tokens` tokens of the text of a digest."""

    tokens: int
    weights: Mapping[str, Mapping[str, Nats]]
    text: str = ""
    _spans: dict[tuple[Step, tuple[Step, ...]], Nats | None] = field(default_factory=dict, repr=False, compare=False)

    def of(self, weight: WeightForm, kept: str) -> Nats | None:
        """What one weight costs in a format: nothing as it is stored, None where nobody measured it.

        A format that leaves out zeros has the values of the one that does not.
        """
        if kept == encoding(weight.source).packed_as or is_lossless(weight.source, kept):
            return 0.0, 0.0
        return self.weights.get(weight.name, {}).get(encoding(kept).dense)

    def span(self, step: Step, promised: Callable[[Step], Form], gentle: tuple[Step, ...] = ()) -> Nats | None:
        """What a step of formats costs in all where `gentle` round; None where a weight was never measured so.

        `promised` gives the form of the model after the step.
        """
        key = (step, gentle)
        if key not in self._spans:
            weights = (w for w in promised(step).weights if matches(step.target, w.name))
            self._spans[key] = self.sum(weights, gentle)
        return self._spans[key]

    def sum(self, weights: Iterable[WeightForm], gentle: tuple[Step, ...] = ()) -> Nats | None:
        """What weights in their formats cost together."""
        low, high = 0.0, 0.0
        for weight in weights:
            if weight.is_matrix:
                found = self.of(weight, weight.format)
                if found is None:
                    return None
                left = share(gentle, weight)
                low, high = low + found[0] * left[0], high + found[1] * left[1]
        return low, high

    @cached_property
    def formats(self) -> frozenset[str]:
        """Every format that some weight was measured in."""
        return frozenset(name for found in self.weights.values() for name in found)


def share(gentle: Iterable[Step], weight: WeightForm) -> Nats:
    """What of one weight's degradation these steps leave together, low..high."""
    low, high = 1.0, 1.0
    for step in gentle:
        if matches(step.target, weight.name):
            left = step.remains(weight)
            low, high = low * left[0], high * left[1]
    return low, high


def table_key(model: Model) -> str:
    """Under what is kept what was measured of a model's weights: tells trainings of one network apart.

    "" for a model that is not here yet.
    """
    if model.source.kind == "hub":
        return ""
    with Store(model) as store:
        return store.sample_digest()


def recall_sensitivities(key: str, *, folder: Path | None = None) -> Sensitivities | None:
    """The table of a `table_key`; None where none was made, and, with a warning, where formats round otherwise by now.

    Raises BadInput for a file that is none.
    """
    if not key:
        return None
    path = _path(key, folder)
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no table of sensitivities ({error}); remove it") from error
    need(isinstance(data, dict), f"{path} is no table of sensitivities; remove it")
    if (data.get("version"), data.get("grids")) != (VERSION, GRIDS):
        _log.warning("%s is from another version and not used; `pintpot calibrate` measures anew", path)
        return None
    try:
        weights = {name: {kept: _nats(span) for kept, span in found.items()} for name, found in data["weights"].items()}
        return Sensitivities(int(data["tokens"]), weights, str(data["text"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is no table of sensitivities ({error!r}); remove it") from error


def table_mark(key: str, *, folder: Path | None = None) -> str:
    """Tells tables of a model apart, "" where there is none."""
    try:
        return hashlib.sha256(_path(key, folder).read_bytes()).hexdigest()[:16] if key else ""
    except OSError:
        return ""


def keep_sensitivities(
    key: str, table: Sensitivities, notes: Mapping[str, Any] | None = None, *, folder: Path | None = None
) -> Path:
    """Write a model's table, with what is to be known of how it was made. Raises BadInput where that cannot be."""
    with locked(_path(key, folder)) as path:
        weights = {name: {kept: list(span) for kept, span in found.items()} for name, found in table.weights.items()}
        about = {"version": VERSION, "grids": GRIDS, "tokens": table.tokens, "text": table.text}
        write_record(path, {**about, "weights": weights, "notes": dict(notes or {})})
        return path


def _nats(span: Any) -> Nats:
    low, high = (float(end) for end in span)
    if not (0 <= low <= high < math.inf):
        raise ValueError(f"{low}..{high} nats")
    return low, high


def _path(key: str, folder: Path | None) -> Path:
    need(key.isalnum(), f"{key!r} is no key of a table")
    return (home() if folder is None else folder) / "sensitivities" / f"{key}.json"
