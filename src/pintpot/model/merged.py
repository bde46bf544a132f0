"""A model with adapters merged into its weights: rows are read as those of its files with the product of both added.

Adapters lie as peft writes them (adapter_config.json, adapter_model.safetensors). Nothing is written: whoever reads
a merged weight gets float32 rows, some at a time, and goes on as with any other model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pintpot.errors import BadFile, BadInput, UnsupportedModel, need
from pintpot.model.names import canonical_hf
from pintpot.model.safetensors import parse_safetensors
from pintpot.model.source import LocalFile, LocalFolder, parse_json
from pintpot.model.spec import Added, Block, Merged, Model, Part, Weight

if TYPE_CHECKING:
    import numpy as np

CONFIG: Final = "adapter_config.json"
VALUES: Final = "adapter_model.safetensors"
BEHIND: Final = "+"
"""Between a model and the folder of the adapters that are merged into it, where both are named."""
_PREFIX: Final = "base_model.model."
_ENDS: Final = (".lora_A.weight", ".lora_B.weight")
_TURNED: Final = ("q", "k")
_PLAIN: Final[Mapping[str, Any]] = {
    "bias": "none", "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "lora_bias": False, "trainable_token_indices": None,
}  # fmt: skip
"""What a configuration must say, or not mention, for adapters to be a product and nothing else."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters."""
    return (folder / CONFIG).is_file()


def named_with(text: str) -> tuple[str, Path] | None:
    """The model and the adapters of `model+folder`; None where no folder of adapters is named."""
    base, plus, adapter = text.rpartition(BEHIND)
    folder = Path(adapter).expanduser()
    return (base, folder) if plus and base and adapter and is_adapter(folder) else None


def base_of(folder: Path) -> str:
    """The model that adapters say they belong to; a path there is seen from here or from their folder."""
    said = _config(folder).get("base_model_name_or_path")
    need(isinstance(said, str) and bool(said), f"{folder.name}/{CONFIG} names no model; name it: MODEL+{folder}")
    beside = folder / str(said)
    return str(beside) if not Path(str(said)).expanduser().exists() and beside.exists() else str(said)


def merged(base: Model, folder: Path) -> Model:
    """The base with the adapters of a folder. Raises BadFile, or UnsupportedModel for adapters that are no product."""
    need(base.source.merged is None, f"{base.name} has adapters already; pack it with them first", UnsupportedModel)
    part = base.language
    if part is None:
        raise UnsupportedModel(f"{base.name} has no language model that adapters could belong to")
    scale_of = _scale(folder)
    path = folder / VALUES
    need(path.is_file(), f"{folder} has no {VALUES}", BadInput)
    tensors = {one.name: one for one in parse_safetensors(LocalFile(path), len(base.source.files))}
    pairs = dict(_pairs(tensors, part, folder.name))
    need(bool(pairs), f"{folder.name}/{VALUES} holds no adapters", BadFile)
    known = {weight.name: weight for weight in part.weights()}
    added = {name: _added(known, name, pair, part, scale_of, folder.name) for name, pair in pairs.items()}
    mark = hashlib.sha256(path.read_bytes()).hexdigest()
    said = Merged(
        str(folder.resolve()), mark, max(a.shape[0] for a, _ in pairs.values()),
        scale_of(next(iter(pairs.values()))[0].shape[0]), tuple(pairs),
    )  # fmt: skip
    parts = tuple(_with(one, added) if one.name == part.name else one for one in base.parts)
    digest = hashlib.sha256(json.dumps([base.digest, mark, said.scale]).encode()).hexdigest()[:16]
    source = replace(base.source, files=(*base.source.files, str(path.resolve())), merged=said)
    name = f"{base.name}{BEHIND}{folder.resolve().name}"
    return replace(base, name=name, parts=parts, source=source, digest=digest)


def added_rows(rows: np.ndarray, added: Added, a: np.ndarray, b: np.ndarray, first: int) -> np.ndarray:
    """Rows [n, K] from `first` on with scale B A on top, as bytes of float32; `a` [r, K], `b` [N, r] as stored."""
    import numpy as np

    at = np.arange(first, first + len(rows))
    if added.head_dim:
        # The file has pairs side by side, adapters have them in halves.
        head, inside = at - at % added.head_dim, at % added.head_dim
        at = head + inside % 2 * (added.head_dim // 2) + inside // 2
    out = rows.astype(np.float32) + np.float32(added.scale) * (b[at] @ a)
    return np.asarray(out, np.float32).view(np.uint8)


def _config(folder: Path) -> dict[str, Any]:
    return parse_json(LocalFolder(folder).text(CONFIG) or "", f"{folder.name}/{CONFIG}")


def _scale(folder: Path) -> Any:
    """How large a product of so many columns is added. Raises UnsupportedModel for what is more than a product."""
    config, where = _config(folder), f"{folder.name}/{CONFIG}"
    kind = config.get("peft_type")
    need(kind == "LORA", f"{where}: adapters of the kind {kind!r:.40}; products (LORA) can be merged", UnsupportedModel)
    more = [key for key, plain in _PLAIN.items() if config.get(key, plain) not in (plain, None)]
    need(not more, f"{where}: {', '.join(more)} cannot be merged into weights here", UnsupportedModel)
    alpha, root = config.get("lora_alpha"), bool(config.get("use_rslora"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise BadFile(f"{where}: lora_alpha is {alpha!r:.40}, no number")
    return lambda rank: alpha / (sqrt(rank) if root else rank)


def _pairs(tensors: Mapping[str, Weight], part: Part, where: str) -> Iterator[tuple[str, tuple[Weight, Weight]]]:
    """Canonical name of a weight, and A and B of its adapter."""
    stems = dict.fromkeys(name.removesuffix(end) for name in tensors for end in _ENDS if name.endswith(end))
    strange = [name for name in tensors if not name.endswith(_ENDS)]
    need(not strange, f"{where}: {strange[:1]} is no matrix of an adapter of a linear layer", UnsupportedModel)
    for stem in stems:
        name = canonical_hf(stem.removeprefix(_PREFIX) + ".weight", part.family)
        if name is None:
            raise UnsupportedModel(f"{where}: {stem!r:.80} means nothing to {part.family}")
        a, b = (tensors.get(stem + end) for end in _ENDS)
        if a is None or b is None:
            raise BadFile(f"{where}: of the adapter {stem!r:.80} one of two matrices is not there")
        yield name, (a, b)


def _added(
    known: Mapping[str, Weight], name: str, pair: Sequence[Weight], part: Part, scale_of: Any, where: str
) -> Weight:
    need(name in known, f"{where}: an adapter of {name}, which the model has not", UnsupportedModel)
    base, (a, b) = known[name], pair
    need(base.experts == 1, f"{where}: {name} belongs to several experts, which take no adapter", UnsupportedModel)
    rank = a.shape[0] if a.shape else 0
    fits = (a.shape, b.shape) == ((rank, base.shape[-1]), (base.shape[0], rank)) and rank > 0
    need(fits, f"{where}: matrices of {a.shape} and {b.shape} beside {name} of {base.shape}", BadFile)
    floats = {a.dtype, b.dtype} <= {"f32", "f16", "bf16"}
    need(floats, f"{where}: an adapter of {name} in {a.dtype} and {b.dtype}; floats are read", UnsupportedModel)
    added = Added(base, a, b, scale_of(rank), _head_dim(name, part.config))
    return Weight(name, base.shape, "f32", base.file, base.offset, 4 * base.num_values, added=added)


def _head_dim(name: str, config: Mapping[str, Any]) -> int:
    """Rows of a head whose order differs between the file and adapters; 0 where it does not."""
    if config.get("rope_layout") != "interleaved" or name.rpartition(".")[2] not in _TURNED:
        return 0
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _with(part: Part, added: Mapping[str, Weight]) -> Part:
    blocks = (Block(one.name, tuple(added.get(w.name, w) for w in one.weights)) for one in part.blocks)
    return replace(part, blocks=tuple(blocks))
