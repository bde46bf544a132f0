"""`/v1/embeddings`: a vector of each text, by a model that reads."""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pintpot.runtime.kinds import Answer, Given
from pintpot.runtime.kinds.text import dimensions, tokens_of
from pintpot.server.computing import Computing, Job, Making
from pintpot.server.endpoints import Exchange, Prepare, Whole
from pintpot.server.schema import Either, Invalid, Listed, Number, Record, Text
from pintpot.server.served import Served

PATH = "/v1/embeddings"
SUMMARY = "A vector of each text."
MOST_TEXTS = 2048
_IDS = Listed(Number(0, 2**31 - 1, whole=True), 1, 1 << 16)
BODY = Record(
    {
        "model": Text(),
        "input": Either(
            (Text(), _IDS, Listed(Text(), 1, MOST_TEXTS), Listed(_IDS, 1, MOST_TEXTS)),
            "a text, a list of token ids, or a list of either",
        ),
        "encoding_format": Text(("float", "base64")),
        "dimensions": Number(1, 1 << 24, whole=True),
        "user": Text(),
    },
    ("model", "input"),
)
FORM = False


def prepare_for(served: Served) -> Prepare | None:
    if not isinstance(served, Computing) or served.offers != "embeddings":
        return None

    def prepare(body: Any) -> Exchange:
        found = BODY.read(body, "")
        own = dimensions(served.session.plan.config)
        if found.get("dimensions", own) != own:
            raise Invalid(f"this model gives {own} dimensions, and no other number of them", "dimensions")
        given = Given(tokens=_tokens(found["input"], served))
        served.service.check(given)
        return _Vectors(Job(served.service, given, _kept), found)

    return prepare


@dataclass(frozen=True, slots=True)
class _Vector:
    """Of a text: float32 values, and how many tokens it has."""

    values: array[float]
    num_tokens: int


class _Vectors(Making[_Vector]):
    def told(self, made: list[_Vector]) -> Whole:
        return Whole(self._pieces(made))

    def _pieces(self, made: list[_Vector]) -> Iterator[str]:
        """One piece for each vector: two thousand of them as text are large."""
        yield '{"object":"list","data":['
        for index, one in enumerate(made):
            if self.found.get("encoding_format") == "base64":
                vector: Any = base64.b64encode(one.values.tobytes()).decode()
            else:
                vector = one.values.tolist()
            told = {"object": "embedding", "index": index, "embedding": vector}
            yield ("," if index else "") + json.dumps(told, separators=(",", ":"))
        num_tokens = sum(one.num_tokens for one in made)
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        yield f'],"model":{json.dumps(self.found["model"])},"usage":{json.dumps(usage)}}}'


def _kept(answer: Answer) -> _Vector:
    return _Vector(array("f", answer.data["embedding"]), answer.data["tokens"])


def _tokens(given: Any, served: Computing) -> list[list[int]]:
    several = isinstance(given, list) and isinstance(given[0], str | list)
    found = []
    for one in given if several else (given,):
        ids = tokens_of(served.session.folder, one) if isinstance(one, str) else one
        found.append(ids)
    return found
