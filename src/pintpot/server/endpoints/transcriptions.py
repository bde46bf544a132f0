"""`/v1/audio/transcriptions`: what is said in a sound file, by a model that hears."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput
from pintpot.runtime.kinds import Answer, Given
from pintpot.server.computing import Computing, Job, Making
from pintpot.server.endpoints import Exchange, Prepare, Whole
from pintpot.server.form import FILE, Form
from pintpot.server.schema import Bytes, Flag, Invalid, Listed, Number, Record, Text
from pintpot.server.served import Served

PATH = "/v1/audio/transcriptions"
SUMMARY = "What is said in a WAV file."
FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
BODY = Record(
    {
        FILE: Bytes(),
        "model": Text(),
        "language": Text(most=20),
        "response_format": Text(FORMATS),
        "stream": Flag(),
        "temperature": Number(0, 1),
        "prompt": Text(),
        "timestamp_granularities[]": Listed(Text(("segment", "word")), 0, 2),
        "user": Text(),
    },
    (FILE, "model"),
)
FORM = True


def prepare_for(served: Served) -> Prepare | None:
    if not isinstance(served, Computing) or served.offers != "transcriptions":
        return None

    def prepare(form: Form) -> Exchange:
        found = _read(form)
        given = Given(audios=(form.path,), language=found.get("language", ""))
        try:
            served.service.check(given)
        except BadInput as error:
            raise Invalid(_named(form, str(error)), FILE if str(form.path) in str(error) else "language") from error
        return _Transcript(Job(served.service, given, _kept, form.close), found)

    return prepare


@dataclass(frozen=True, slots=True)
class _Piece:
    """Half a minute of a file, or what is left of one."""

    start: float
    end: float
    text: str
    tokens: list[int]
    language: str


class _Transcript(Making[_Piece]):
    def told(self, made: list[_Piece]) -> Whole:
        wanted = self.found.get("response_format", "json")
        if wanted == "text":
            return Whole((_text(made) + "\n",), "text/plain")
        told = {"text": _text(made), "usage": _usage(made)}
        return Whole((json.dumps(told | (_verbose(made) if wanted == "verbose_json" else {})),))

    async def events(self) -> AsyncIterator[Mapping[str, Any]]:
        pieces: list[_Piece] = []
        async for one in self.job.made():
            if one.text:
                delta = (" " if _text(pieces) else "") + one.text
                yield {"type": "transcript.text.delta", "delta": delta}
            pieces.append(one)
        yield {"type": "transcript.text.done", "text": _text(pieces), "usage": _usage(pieces)}


def _read(form: Form) -> dict[str, Any]:
    """The fields, whose values come as texts. Raises Invalid for what is wrong or not offered."""
    path, fields = form.path, {name: value for name, value in form.fields.items() if value != ""}
    given: dict[str, Any] = {**fields, FILE: path}
    if "temperature" in fields:
        given["temperature"] = _number(fields["temperature"])
    if "stream" in fields:
        given["stream"] = {"true": True, "false": False}.get(fields["stream"].lower(), fields["stream"])
    several = [name for name in fields if name.startswith("timestamp_granularities")]
    given |= {"timestamp_granularities[]": [fields[name] for name in several]} if several else {}
    found = BODY.read(given, "")
    for name, value, said in (
        ("temperature", found.get("temperature", 0) > 0, "the likeliest words are written: temperature is 0"),
        ("prompt", "prompt" in found, "prompt is not offered here"),
        ("response_format", found.get("response_format") in ("srt", "vtt"),
         "it is known only in which half minute something is said: ask for json, text or verbose_json"),
        ("timestamp_granularities[]", "word" in found.get("timestamp_granularities[]", ()),
         "when single words are said is not known here; segments of half a minute are"),
    ):  # fmt: skip
        if value:
            raise Invalid(said, name)
    return found


def _named(form: Form, said: str) -> str:
    """Whoever sent the file knows it by another name."""
    own, theirs = form.path, form.file_name
    return said.replace(str(own), theirs).replace(f"-i {own.name} {own.stem}", f"-i {theirs} {Path(theirs).stem}")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _kept(answer: Answer) -> _Piece:
    told = answer.data
    return _Piece(told["start"], told["end"], told["text"], told["tokens"], told.get("language", ""))


def _text(pieces: list[_Piece]) -> str:
    return " ".join(one.text for one in pieces if one.text)


def _usage(pieces: list[_Piece]) -> dict[str, Any]:
    return {"type": "duration", "seconds": pieces[-1].end if pieces else 0.0}


def _verbose(pieces: list[_Piece]) -> dict[str, Any]:
    segments = [
        {"id": number, "start": one.start, "end": one.end, "text": one.text, "tokens": one.tokens, "temperature": 0.0}
        for number, one in enumerate(pieces)
    ]
    return {
        "task": "transcribe", "language": pieces[0].language, "duration": pieces[-1].end, "segments": segments,
    }  # fmt: skip
