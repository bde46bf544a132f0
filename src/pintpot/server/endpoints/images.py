"""`/v1/images/generations`: pictures of a label, by a network that draws."""

from __future__ import annotations

import base64
import io
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pintpot.runtime.kinds import Answer, Given
from pintpot.server.computing import Computing, Job, Making
from pintpot.server.endpoints import Exchange, Prepare, Whole
from pintpot.server.schema import Flag, Invalid, Number, Record, Text
from pintpot.server.served import Served

PATH = "/v1/images/generations"
SUMMARY = "Pictures of a label, whose number is the prompt."
MOST_PICTURES, MOST_STEPS = 10, 1000
BODY = Record(
    {
        "model": Text(),
        "prompt": Text(most=1000),
        "n": Number(1, MOST_PICTURES, whole=True),
        "size": Text(most=20),
        "response_format": Text(("b64_json", "url")),
        "output_format": Text(("png", "jpeg", "webp")),
        "seed": Number(0, 2.0**63, whole=True),
        "steps": Number(1, MOST_STEPS, whole=True),
        "guidance": Number(0, 100),
        "stream": Flag(),
        "user": Text(),
    },
    ("prompt",),
)
FORM = False


def prepare_for(served: Served) -> Prepare | None:
    if not isinstance(served, Computing) or served.offers != "images":
        return None

    def prepare(body: Any) -> Exchange:
        found = BODY.read(body, "")
        _check(found, served)
        seed = found.get("seed", secrets.randbits(32))
        given = Given(
            labels=(int(found["prompt"]),) * found.get("n", 1),
            seed=seed, steps=found.get("steps"), guidance=found.get("guidance"),
        )  # fmt: skip
        served.service.check(given)
        return _Pictures(Job(served.service, given, _kept), found)

    return prepare


class _Pictures(Making[dict[str, Any]]):
    def told(self, made: list[dict[str, Any]]) -> Whole:
        return Whole(_told(made))


def _check(found: Mapping[str, Any], served: Computing) -> None:
    """Raise Invalid for what this model does not draw."""
    _, height, width = served.service.about["size"]
    own, prompt = f"{width}x{height}", found["prompt"].strip()
    if found.get("size", "auto") not in ("auto", own):
        raise Invalid(f"this model draws pictures of {own}, and of no other size", "size")
    if not (prompt.isascii() and prompt.isdigit() and len(prompt) < 10):
        most = served.service.about["classes"] - 1
        raise Invalid(f"this model draws by a label: the prompt is its number, 0 to {most}", "prompt")
    if found.get("response_format") == "url":
        raise Invalid("no pictures are kept here that a url could name; ask for b64_json", "response_format")
    if found.get("output_format", "png") != "png":
        raise Invalid("pictures are given as png", "output_format")
    if found.get("stream"):
        raise Invalid("pictures do not come as a stream", "stream")


def _kept(answer: Answer) -> dict[str, Any]:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(answer.picture).save(out, "PNG")  # type: ignore[arg-type]
    return {"b64_json": base64.b64encode(out.getvalue()).decode(), "seed": answer.data["seed"]}


def _told(made: list[dict[str, Any]]) -> Iterator[str]:
    yield f'{{"created":{int(time.time())},"output_format":"png","data":['
    for index, one in enumerate(made):
        yield ("," if index else "") + json.dumps(one, separators=(",", ":"))
    yield "]}"
