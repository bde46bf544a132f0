"""The model of a pack, as far as its manifest knows it: enough to price its plan again without the source."""

from __future__ import annotations

from dataclasses import replace

from pintpot.contract.form import Form
from pintpot.formats import encoding
from pintpot.model.joined import VISION
from pintpot.model.spec import Block, Model, Part, Weight
from pintpot.nets import form_of
from pintpot.packer.manifest import Manifest


def packed_model(manifest: Manifest) -> Model:
    """A description with every weight's shape and source encoding; offsets are zero, for the source may be gone."""
    plan = manifest.plan
    names = {form.name for form in plan.form.weights}
    sees = plan.budget.workload.given > 0 or any(part.name == VISION for part in plan.parts)
    kind = "module" if manifest.tokenizer is None else "vlm" if sees else "llm"
    return Model(
        name=plan.model_name,
        kind=kind,
        parts=tuple(replace(part, blocks=_blocks(form_of(part, plan.parts, plan.form), part)) for part in plan.parts),
        ties=() if "head" in names or kind == "module" else (("head", "embed"),),
        context=manifest.context,
        source=manifest.source,
        tokenizer=manifest.tokenizer,
        digest=plan.model_digest,
    )


def _blocks(form: Form, part: Part) -> tuple[Block, ...]:
    blocks: dict[str, list[Weight]] = {}
    for kept in form.weights:
        rows, columns = kept.shape if kept.is_matrix else (1, kept.shape[0])
        num_bytes = rows * encoding(kept.source).row_bytes(columns)
        name = kept.name.rpartition(".")[0] or kept.name
        weight = Weight(part.prefix + kept.name, kept.shape, kept.source, 0, 0, num_bytes, experts=kept.experts)
        blocks.setdefault(part.prefix + name, []).append(weight)
    return tuple(Block(name, tuple(weights)) for name, weights in blocks.items())
