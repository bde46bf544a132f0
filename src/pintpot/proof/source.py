"""The model that a pack was made from, where it still is."""

from __future__ import annotations

from pintpot.errors import BadInput, need
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.packer.manifest import Manifest
from pintpot.planner.sensitivity import table_key


def source_model(manifest: Manifest) -> Model:
    """Describe the source of a pack again. Raises BadInput when it is gone or has become another, if only in training.

    Of a pack that does not know its training, written by an earlier version, the description alone is compared.
    """
    source, known = manifest.source, manifest.sample_digest
    model = describe(source.named, offline=True)
    same = model.digest == manifest.plan.model_digest and known in ("", table_key(model))
    need(same, f"{source.named} is no longer the model that was packed", BadInput)
    return model
