"""The model that a pack was made from, where it still is."""

from __future__ import annotations

from pintpot.errors import BadInput, need
from pintpot.model.read import describe
from pintpot.model.spec import Model, Source


def source_model(source: Source, digest: str) -> Model:
    """Describe the source of a pack again. Raises BadInput when it is gone or has become another."""
    model = describe(source.path, offline=True)
    need(model.digest == digest, f"{source.path} is no longer the model that was packed", BadInput)
    return model
