"""Models that hear: Whisper writes down what is said in a sound file, half a minute after half a minute.

Of each piece a spectrogram is encoded once; then word pieces follow one by one, each the likeliest, over keys and
values that last. Which pieces are never written, and which not at first, the model's own files say. Time stamps are
not asked for. Radford et al. 2022, arXiv:2212.04356.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadFile, BadInput, UnsupportedModel, need
from pintpot.meter.overlap import Agreed
from pintpot.meter.words import divergence, same_so_far, word_errors
from pintpot.model.tokens.memory import estimated_bytes
from pintpot.runtime.kinds import About, Answer, Arrays, Batch, Given, Published, Runs
from pintpot.runtime.kinds._hearing import FRAME, HOP, RATE, log_mel, num_windows, open_wav, windows
from pintpot.runtime.kinds._words import tokenizer_at

TAKES = frozenset({"audios"})
ENCODE: Final = "encode"
DECODE: Final = "decode"
TOKENIZER: Final = "tokenizer.json"
ENGLISH: Final = "en"
"""What a model of one language hears: so it is with all that were published."""
WINDOW_S: Final = 30
WORDS_A_WINDOW: Final = 100
"""Word pieces of half a minute of speech, as plans count on them: two and a half words a second."""
KEPT_LOGITS: Final = 64
"""Of each piece of sound, so many word pieces are compared."""
_HEARING_BYTES: Final = 64_000_000
"""What half a minute of any file takes on its way to a spectrogram."""
_SETTINGS: Final = {"feature_size": None, "sampling_rate": RATE, "hop_length": HOP, "n_fft": FRAME,
                    "chunk_length": WINDOW_S, "dither": 0.0}  # fmt: skip


def about(published: Published) -> dict[str, Any] | None:
    config, folder = published.config, published.folder
    if config.get("model_type") != "whisper" or "input_features" not in published.takes:
        return None
    need(published.task != "", f"{folder.name} has no head that writes words", UnsupportedModel)
    there = (folder / TOKENIZER).is_file()
    need(there, f"{folder.name}: there is no {TOKENIZER}, by which tokens become text", BadFile)
    generation = {**config, **_json(folder / "generation_config.json")}
    mels, words = int(config["num_mel_bins"]), int(config["vocab_size"])
    _check_hearing(folder, mels)
    start, end = int(generation["decoder_start_token_id"]), generation["eos_token_id"]
    languages = generation.get("lang_to_id") if generation.get("is_multilingual") else None
    task = (generation.get("task_to_id") or {}).get("transcribe")
    silent = generation.get("no_timestamps_token_id")
    return {
        "mels": mels,
        "words": words,
        "most": min(int(config["max_target_positions"]), int(generation.get("max_length") or 1 << 30)),
        "start": start,
        "end": [end] if isinstance(end, int) else list(end),
        "languages": sorted(languages.values()) if languages else [],
        "spoken": {name.strip("<|>"): token for name, token in sorted((languages or {}).items())},
        "then": [token for token in (task if languages else None, silent) if token is not None],
        "never": _ids(generation.get("suppress_tokens"), words),
        "not_first": _ids(generation.get("begin_suppress_tokens"), words),
        "files": [TOKENIZER],
        "memory_bytes": _HEARING_BYTES + 4 * KEPT_LOGITS * words + estimated_bytes(words, 0)[1],
    }


def examples(about: About) -> Arrays:
    return {"input_features": _features(_drawn(), about)}


def read(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    asked = _asked(about, given.language)
    for path in given.audios:
        wav = open_wav(path)
        for start, samples in windows(wav, WINDOW_S):
            span = np.array([start, min(start + WINDOW_S, wav.seconds)])
            yield Batch({"input_features": _features(samples, about), "span": span, **asked}, (_name(path, start),))


def offers(about: About) -> str:
    return "transcriptions"


def effort(about: About, folder: Path, given: Given) -> float:
    _asked(about, given.language)
    return float(sum(num_windows(open_wav(path), WINDOW_S) for path in given.audios))


def samples(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    if given.audios:
        return read(about, folder, given)
    note = "a drawn sound was heard, in which nothing is said; --audio names a real one"
    return iter([Batch({"input_features": _features(_drawn(), about)}, ("drawn sound",), (note,))])


def compute(about: About, run: Runs, batch: Batch) -> Arrays:
    """`tokens` that were written, `logits` of the first of them, `heard`, what the encoder gave, and as `language` none
    or one of the model's words for them."""
    run.reset()
    heard = next(iter(run({"input_features": batch.inputs["input_features"]}, ENCODE).values()))
    language = _language(about, run, batch)
    prompt = [about["start"], *language, *about["then"]]
    for at, token in enumerate(prompt):
        logits = _step(run, token, at)
    at = len(prompt)
    kept, written = list[NDArray[Any]](), list[int]()
    while True:
        if len(kept) < KEPT_LOGITS:
            kept.append(logits[0])
        token = _likeliest(about, logits, first=not written)
        if token in about["end"] or at + 1 > about["most"]:
            break
        written.append(token)
        if at >= about["most"]:
            break
        logits, at = _step(run, token, at), at + 1
    tokens, chosen = np.array(written, np.int64), np.array(language, np.int64)
    return {"tokens": tokens, "logits": np.stack(kept), "heard": heard, "language": chosen}


def answers(about: About, folder: Path, batch: Batch, outputs: Arrays) -> Iterator[Answer]:
    text, tokens = _text(folder, outputs), outputs["tokens"].tolist()
    span = dict(zip(("start", "end"), batch.inputs.get("span", np.zeros(0)).tolist(), strict=False))
    named = {token: name for name, token in about.get("spoken", {}).items()}
    spoken = [("language", named[token]) for token in outputs["language"].tolist() if token in named]
    told = {"audio": batch.names[0], "text": text, "tokens": tokens, **span, **dict(spoken)}
    yield Answer(batch.names[0], text, told)


def judged(about: About, batch: Batch, outputs: Arrays) -> Arrays:
    """What the encoder gave, and the logits of the first word."""
    return {"heard": outputs["heard"], "first word": outputs["logits"][:1]}


def agreement(about: About, folder: Path, batch: Batch, reference: Arrays, test: Arrays) -> tuple[Agreed, ...]:
    """Words that are right, and KL divergence for as long as both have written the same."""
    errors, count = word_errors(_text(folder, reference), _text(folder, test))
    common = 1 + same_so_far(reference["tokens"], test["tokens"])
    common = min(common, len(reference["logits"]), len(test["logits"]))
    apart = divergence(reference["logits"][:common], test["logits"][:common])
    return (
        Agreed("word error rate", errors / max(1, count), count),
        Agreed("KL divergence of word pieces", float(apart.mean()), common, "nats"),
    )


def _language(about: About, run: Runs, batch: Batch) -> list[int]:
    """Of several languages the one that was asked for, or that the decoder takes to be likeliest."""
    if "language" in batch.inputs:
        return [int(one) for one in batch.inputs["language"]]
    if not about["languages"]:
        return []
    logits = _step(run, about["start"], 0)[0]
    return [max(about["languages"], key=lambda token: float(logits[token]))]


def _asked(about: About, language: str) -> Arrays:
    """The word for a language, where one was named. Raises BadInput for one that the model does not know."""
    if not language or (not about["languages"] and language == ENGLISH):
        return {}
    spoken: Mapping[str, int] = about.get("spoken", {})
    known = ", ".join(spoken) or f"{ENGLISH} alone"
    need(language in spoken, f"language {language!r:.20} is not known to this model; it hears {known}", BadInput)
    return {"language": np.array([spoken[language]])}


def _step(run: Runs, token: int, at: int) -> NDArray[Any]:
    inputs = {"ids": np.array([[token]], np.int64), "at": np.array([at], np.int64)}
    return next(iter(run(inputs, DECODE).values()))


def _likeliest(about: About, logits: NDArray[Any], first: bool) -> int:
    allowed = logits[0].copy()
    allowed[about["never"]] = -np.inf
    if first:
        allowed[about["not_first"]] = -np.inf
    return int(allowed.argmax())


def _text(folder: Path, outputs: Arrays) -> str:
    return tokenizer_at(folder / TOKENIZER).decode(outputs["tokens"].tolist()).strip()


def _features(samples: NDArray[np.float32], about: About) -> NDArray[np.float32]:
    found: NDArray[np.float32] = log_mel(samples, about["mels"])[None]
    return found


def _drawn() -> NDArray[np.float32]:
    """Tones that glide, for half a minute."""
    seconds = np.arange(WINDOW_S * RATE) / RATE
    found: NDArray[np.float32] = (0.1 * np.sin(600 * seconds + 200 * np.sin(3 * seconds))).astype(np.float32)
    return found


def _name(path: Path, start: float) -> str:
    return f"{path.name} {int(start) // 60}:{int(start) % 60:02}"


def _ids(found: Any, words: int) -> list[int]:
    return [token for token in found or () if isinstance(token, int) and 0 <= token < words]


def _check_hearing(folder: Path, mels: int) -> None:
    """Raise UnsupportedModel for spectrograms of another kind than `_hearing` makes."""
    found = _json(folder / "preprocessor_config.json")
    due = {**_SETTINGS, "feature_size": mels}
    odd = [f"{key} {found[key]!r:.40}" for key, value in due.items() if found.get(key, value) != value]
    need(not odd, f"{folder.name}: spectrograms with {', '.join(odd)} are not known here", UnsupportedModel)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
