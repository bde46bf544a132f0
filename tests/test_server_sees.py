"""A vision-language model behind OpenAI's own client: what is said of images, side by side, is what a session says."""

from __future__ import annotations

import base64
import gc
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vlms

pytest.importorskip("openai")
pytest.importorskip("starlette")

import openai
from packing import EXACT, FREE, MACHINE, opened
from PIL import Image
from test_server import Server, served

from pintpot.budget import Budget, Workload
from pintpot.model.joined import VISION
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.question import Question
from pintpot.runtime.building_sight import record_sight
from pintpot.runtime.describing import describe
from pintpot.runtime.request import Sampling
from pintpot.runtime.seeing import sight_place

COUNT = 6


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sees")
    folder = vlms.write(vlms.make("smolvlm"), place / "smolvlm")
    record_sight(folder, "smolvlm", {}, sight_place(folder, {}), lambda share, what: None)
    model = describe(str(folder), None, {"images": 1}, None)
    time, height, width = model.part(VISION).config["kind"]["grid"]
    work = Workload(context=250, batch=3, prompt=60, output=20, given=2 * time * height * width, pictures=6)
    budget = Budget(4_000_000_000, work, degradation=1e9, threads=1)
    return write_pack(
        model, assess(Question(model, MACHINE, budget, FREE, torch_bytes=500_000_000), EXACT), place / "p"
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(3)
    found = [place / f"{index}.png" for index in range(3)]
    for path in found:
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(path)
    return found


@pytest.fixture(scope="module")
def alone(pack: Path, images: list[Path]) -> list[str]:
    """What a session says of each image, and in the end of the first two."""
    said = []
    with opened(pack) as session:
        for shown in ([images[0]], [images[1]], [images[2]], images[:2]):
            session.reset()
            how = {"images": shown, "sampling": Sampling(temperature=0), "max_tokens": COUNT}
            said.append("".join(session.chat("What is it?", **how)))  # type: ignore[arg-type]
    assert len(set(said)) == 4
    return said


@pytest.fixture(scope="module")
def server(pack: Path, alone: list[str]) -> Iterator[Server]:
    with served(pack) as one:
        yield one
        assert one.serving.service.wait_idle(10)
        assert one.serving.service.audit() == []


def url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def asked(*paths: Path, text: str = "What is it?", **how: Any) -> dict[str, Any]:
    shown = [{"type": "image_url", "image_url": {"url": url(path), "detail": "low"}} for path in paths]
    content = [*shown, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny", "messages": messages, "max_tokens": COUNT, "temperature": 0, **how}


def said(server: Server, *paths: Path) -> str:
    return str(server.client().chat.completions.create(**asked(*paths)).choices[0].message.content)


def test_answers_are_those_of_a_session(server: Server, images: list[Path], alone: list[str]) -> None:
    assert [said(server, path) for path in images] == alone[:3]
    assert said(server, *images[:2]) == alone[3]
    assert [said(server, path) for path in images] == alone[:3], "also when they come again"
    pieces = server.client().chat.completions.create(**asked(images[0], stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == alone[0]


def test_many_look_side_by_side(server: Server, images: list[Path], alone: list[str]) -> None:
    found: dict[int, str] = {}

    def ask(index: int) -> None:
        found[index] = said(server, images[index % 3])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(9)] == [alone[index % 3] for index in range(9)]
    gc.collect()
    assert server.serving.session.eyes.held_bytes == 0, "nobody keeps a picture that was answered about"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("https://example.com/cat.png", "none is fetched"),
        ("data:image/png;base64,@@@", "no base64"),
        ("data:text/plain;base64,AAAA", "none is fetched"),
        ("data:image/png;base64,AAAA", "no picture that PIL knows"),
    ],
)
def test_what_is_no_image(server: Server, images: list[Path], sent: str, reason: str) -> None:
    body = asked(images[0])
    body["messages"][0]["content"][0]["image_url"]["url"] = sent
    with pytest.raises(openai.BadRequestError, match=reason):
        server.client().chat.completions.create(**body)


def test_more_than_there_is_room_for(server: Server, images: list[Path]) -> None:
    with pytest.raises(openai.BadRequestError, match="the plan has room for 32"):
        said(server, *images)
    vast = io.BytesIO()
    Image.new("1", (4000, 3000)).save(vast, "PNG")
    body = asked(images[0])
    body["messages"][0]["content"][0]["image_url"]["url"] = (
        "data:image/png;base64," + base64.b64encode(vast.getvalue()).decode()
    )
    with pytest.raises(openai.BadRequestError, match="at most 8,000,000 are read"):
        server.client().chat.completions.create(**body)
