"""The model of a pack, as far as its manifest knows it: enough to price its plan again without the source."""

from __future__ import annotations

from pintpot.formats import encoding
from pintpot.model.spec import Block, Model, Part, Weight
from pintpot.packer.manifest import Manifest


def packed_model(manifest: Manifest) -> Model:
    """A description with every weight's shape and source encoding; offsets are zero, for the source may be gone."""
    plan = manifest.plan
    blocks: dict[str, list[Weight]] = {}
    for form in plan.form.weights:
        rows, columns = form.shape if form.is_matrix else (1, form.shape[0])
        num_bytes = rows * encoding(form.source).row_bytes(columns)
        name = form.name.rpartition(".")[0] or form.name
        blocks.setdefault(name, []).append(Weight(form.name, form.shape, form.source, 0, 0, num_bytes))
    names = {form.name for form in plan.form.weights}
    name, kind = ("module", "module") if manifest.tokenizer is None else ("language", "llm")
    part = Part(name, plan.family, plan.config, tuple(Block(name, tuple(weights)) for name, weights in blocks.items()))
    return Model(
        name=plan.model_name,
        kind=kind,
        parts=(part,),
        ties=() if "head" in names or kind == "module" else (("head", "embed"),),
        context=manifest.context,
        source=manifest.source,
        tokenizer=manifest.tokenizer,
        digest=plan.model_digest,
    )
