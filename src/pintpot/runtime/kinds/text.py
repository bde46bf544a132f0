"""Models that read: encoders give a vector of each text, classifiers its classes, language models their next words.

A text becomes the recorded number of tokens: what is longer is cut, what is shorter is filled up behind a mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadFile, BadInput, UsageError, need
from pintpot.meter.overlap import Agreed, cosines, same_top, shared_probability, softmax
from pintpot.model.tokens.memory import estimated_bytes
from pintpot.nets.adapted import named_leaves
from pintpot.runtime.kinds import About, Answer, Arrays, Batch, Given, Published, Runs, side_by_side
from pintpot.runtime.kinds._lengths import calls, narrower
from pintpot.runtime.kinds._words import tokenizer_at

TAKES = frozenset({"texts"})
TOKENIZER: Final = "tokenizer.json"
DEFAULT_TOKENS: Final = 128
TOLD: Final = 5
FEWEST_SAMPLES: Final = 16
TOGETHER: Final = 2048
"""Of so many texts in a row those of similar length meet in a call."""
_NARROWER: Final = frozenset({"embed", "classify"})
"""Tasks of which a text becomes little, so that room for it at other lengths costs next to nothing."""
_TASKS: Final = {
    "": "embed", "text_encoding": "embed", "sequence_classification": "classify", "token_classification": "label",
    "masked_lm": "fill", "causal_lm": "next",
}  # fmt: skip


def about(published: Published) -> dict[str, Any] | None:
    config, shapes, task = published.config, published.shapes, _TASKS.get(published.task)
    if "input_ids" not in published.takes or "pixel_values" in published.takes or task is None:
        return None
    if config.get("is_encoder_decoder"):
        return None
    there = (published.folder / TOKENIZER).is_file()
    need(there, f"{published.folder.name}: there is no {TOKENIZER}, by which texts become tokens", BadFile)
    most, words = _most_tokens(published), int(config["vocab_size"])
    tokens, batch = shapes.get("tokens") or min(DEFAULT_TOKENS, most), shapes.get("batch", 1)
    need(tokens <= most, f"{published.folder.name} reads at most {most} tokens, not {tokens}", UsageError)
    return {
        "task": task,
        "labels": _labels(config),
        "batch": batch,
        "tokens": tokens,
        "narrower": list(narrower(batch, tokens)) if task in _NARROWER else [],
        "words": words,
        "padding": _padding(published),
        "inputs": [name for name in ("input_ids", "attention_mask") if name in published.takes],
        **_pooling(published.folder),
        "files": [TOKENIZER],
        "memory_bytes": estimated_bytes(words, 0)[1],
    }


def examples(about: About) -> Arrays:
    # Texts of two lengths, so that nothing that looks at the mask could be recorded as if all were there.
    shape = about["batch"], about["tokens"]
    ids = np.arange(shape[0] * shape[1]).reshape(shape) % about["words"]
    mask = np.ones(shape, np.int64)
    mask[:, -(shape[1] // 4) or shape[1] :] = 0
    return {name: {"input_ids": ids, "attention_mask": mask}[name] for name in about["inputs"]}


def read(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    first = 0
    for some in side_by_side(_texts(about, folder, given), TOGETHER):
        for shape, rows in calls([len(ids) for _, ids, _ in some], about):
            yield _batch([some[row] for row in rows], shape, tuple(first + row for row in rows))
        first += len(some)


def in_order(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    """As `read`, one after the other, each call of the planned shape."""
    return (_batch(some, about) for some in side_by_side(_texts(about, folder, given), about["batch"]))


def offers(about: About) -> str:
    return "embeddings" if about["task"] == "embed" else ""


def effort(about: About, folder: Path, given: Given) -> float:
    for ids in given.tokens:
        most, words = about["tokens"], about["words"]
        said = f"a text of {len(ids)} tokens; this model was opened for texts of at most {most}"
        need(0 < len(ids) <= most, said, BadInput)
        need(min(ids) >= 0 and max(ids) < words, f"tokens are 0 to {words - 1}", BadInput)
    of_tokens = sum(1 for _ in calls([len(ids) for ids in given.tokens], about))
    return float(of_tokens + ceil(len(given.texts) / about["batch"]))


def samples(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    texts = given.texts[: max(FEWEST_SAMPLES, about["batch"])]
    return in_order(about, folder, Given(texts=texts))


def compute(about: About, run: Runs, batch: Batch) -> Arrays:
    return run(batch.inputs)


def answers(about: About, folder: Path, batch: Batch, outputs: Arrays) -> Iterator[Answer]:
    mask = _mask(about, batch)
    tell = {"embed": _embedding, "classify": _classes, "label": _labelled, "fill": _filled, "next": _next}[
        about["task"]
    ]
    for row, name in enumerate(batch.names):
        text, data = tell(about, outputs, mask, batch.inputs["input_ids"], row)
        yield Answer(name, text, {"text": name, **data})


def judged(about: About, batch: Batch, outputs: Arrays) -> Arrays:
    """Vectors of texts, logits of classes, or of every token that is there."""
    mask, count = _mask(about, batch), len(batch.names)
    if about["task"] == "embed":
        return {"embedding": _vectors(about, outputs, mask)[:count]}
    if about["task"] == "classify":
        return {"logits": outputs["logits"][:count]}
    return {"logits": outputs["logits"][:count][mask[:count] > 0]}


def agreement(about: About, folder: Path, batch: Batch, reference: Arrays, test: Arrays) -> tuple[Agreed, ...]:
    one, other = (judged(about, batch, outputs) for outputs in (reference, test))
    if about["task"] == "embed":
        found = cosines(one["embedding"], other["embedding"])
        return (Agreed("cosine of embeddings", float(found.mean()), len(found)),)
    word = "class" if about["task"] in ("classify", "label") else "word"
    measures = ((f"same {word}", same_top), ("shared probability", shared_probability))
    return tuple(
        Agreed(what, float(measure(one["logits"], other["logits"]).mean()), len(one["logits"]))
        for what, measure in measures
    )


Text = tuple[str, Sequence[int], bool]
"""Its name, its tokens, and whether there were more."""


def _texts(about: About, folder: Path, given: Given) -> Iterator[Text]:
    tokenizer, most = tokenizer_at(folder / TOKENIZER), about["tokens"]
    read_ = ((text, *tokenizer.encode_cut(text, most)) for text in given.texts)
    return chain(read_, ((" ".join(map(str, ids)), ids[:most], len(ids) > most) for ids in given.tokens))


def _most_tokens(published: Published) -> int:
    """The least of what the files that come with a model say."""
    config = published.config
    found = config.get("max_position_embeddings") or config.get("n_positions")
    sentences = _json(published.folder / "sentence_bert_config.json").get("max_seq_length")
    # RoBERTa and its kin number positions from the padding's on.
    first = 2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl") else 0
    known = [size for size in (found - first if found else None, sentences) if isinstance(size, int) and size > 0]
    return min(known, default=DEFAULT_TOKENS)


def _padding(published: Published) -> int:
    found = published.config.get("pad_token_id")
    return found if isinstance(found, int) and found >= 0 else 0


def _pooling(folder: Path) -> dict[str, Any]:
    """How sentence-transformers makes one vector of a text; the mean where nobody says."""
    modules = _json(folder / "modules.json", [])
    kinds = {
        str(one.get("type", "")).rpartition(".")[2]: one.get("path", "") for one in modules if isinstance(one, dict)
    }
    settings = _json(folder / kinds.get("Pooling", "1_Pooling") / "config.json")
    ways = {"cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken", "max": "pooling_mode_max_tokens"}
    way = next((name for name, key in ways.items() if settings.get(key)), "mean")
    return {"pooling": way, "normalize": "Normalize" in kinds}


def _json(path: Path, otherwise: Any = None) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {} if otherwise is None else otherwise


def _labels(config: Mapping[str, Any]) -> list[str]:
    found = config.get("id2label") or {}
    return [str(found[key]) for key in sorted(found, key=int)]


def _batch(texts: Sequence[Text], about: About, places: tuple[int, ...] = ()) -> Batch:
    shape = about["batch"], about["tokens"]
    ids, mask = np.full(shape, about["padding"], np.int64), np.zeros(shape, np.int64)
    notes = []
    for row, (text, found, cut) in enumerate(texts):
        ids[row, : len(found)] = found
        mask[row, : len(found)] = 1
        if cut:
            notes.append(f"{text[:40]!r}... is longer than {about['tokens']} tokens, and was cut")
    for row in range(len(texts), shape[0]):
        ids[row], mask[row] = ids[0], mask[0]
    need(int(ids.max()) < about["words"], f"the tokenizer knows more than the model's {about['words']} words", BadFile)
    inputs = {"input_ids": ids, "attention_mask": mask}
    names = tuple(text for text, _, _ in texts)
    return Batch({name: inputs[name] for name in about["inputs"]}, names, tuple(notes), places)


def _mask(about: About, batch: Batch) -> NDArray[Any]:
    """Where there are tokens [batch, tokens]."""
    given = batch.inputs.get("attention_mask")
    return (batch.inputs["input_ids"] != about["padding"]).astype(np.int64) if given is None else given


def _vectors(about: About, outputs: Arrays, mask: NDArray[Any]) -> NDArray[Any]:
    """One vector of each text [batch, width]."""
    if "text_embeds" in outputs:
        return outputs["text_embeds"]
    states = outputs["last_hidden_state"] if "last_hidden_state" in outputs else next(iter(outputs.values()))
    there = mask[..., None].astype(states.dtype)
    if about["pooling"] == "cls":
        found = states[:, 0]
    elif about["pooling"] == "last":
        found = states[np.arange(len(states)), mask.sum(axis=1) - 1]
    elif about["pooling"] == "max":
        found = np.where(there > 0, states, -np.inf).max(axis=1)
    else:
        found = (states * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return found / np.linalg.norm(found, axis=1, keepdims=True) if about["normalize"] else found


Told = tuple[str, dict[str, Any]]


def _embedding(about: About, outputs: Arrays, mask: NDArray[Any], ids: NDArray[Any], row: int) -> Told:
    values = _vectors(about, outputs, mask)[row]
    first = ", ".join(f"{value:.3f}" for value in values[:4])
    told = f"{len(values)} values, length {np.linalg.norm(values):.4g}: {first}, ..."
    return told, {"embedding": [float(value) for value in values], "tokens": int(mask[row].sum())}


def _classes(about: About, outputs: Arrays, mask: NDArray[Any], ids: NDArray[Any], row: int) -> Told:
    shares = softmax(outputs["logits"][row])
    best = shares.argsort()[::-1][:TOLD]
    found = [{"label": _label(about, at), "class": int(at), "probability": float(shares[at])} for at in best]
    return ", ".join(f"{one['label']} {one['probability']:.2f}" for one in found), {"classes": found}


def _label(about: About, index: int) -> str:
    return about["labels"][index] if index < len(about["labels"]) else f"class {index}"


def _labelled(about: About, outputs: Arrays, mask: NDArray[Any], ids: NDArray[Any], row: int) -> Told:
    found = [
        {"token": int(ids[row, at]), "label": _label(about, int(outputs["logits"][row, at].argmax()))}
        for at in np.flatnonzero(mask[row])
    ]
    return " ".join(str(one["label"]) for one in found), {"tokens": found}


def _filled(about: About, outputs: Arrays, mask: NDArray[Any], ids: NDArray[Any], row: int) -> Told:
    best = outputs["logits"][row].argmax(axis=-1)
    found = [int(best[at]) for at in np.flatnonzero(mask[row])]
    return f"likeliest tokens: {' '.join(map(str, found[:16]))}", {"likeliest": found}


def _next(about: About, outputs: Arrays, mask: NDArray[Any], ids: NDArray[Any], row: int) -> Told:
    shares = softmax(outputs["logits"][row, int(mask[row].sum()) - 1])
    best = shares.argsort()[::-1][:TOLD]
    found = [{"token": int(at), "probability": float(shares[at])} for at in best]
    return ", ".join(f"token {one['token']} {one['probability']:.2f}" for one in found), {"next": found}


def dimensions(config: Mapping[str, Any]) -> int:
    """How long the vectors are that a recording gives."""
    found = dict(named_leaves(config["stages"][0]["outputs"]))
    first = next(iter(found.values()))
    return int(found.get("text_embeds", found.get("last_hidden_state", first))["sizes"][-1])


def tokens_of(folder: Path, text: str) -> list[int]:
    """All tokens of a text, those that the model wants around it among them. Raises BadInput for what is no Unicode."""
    return tokenizer_at(folder / TOKENIZER).encode(text)
