"""The page in a real browser: it tells what the server tells, talks, stops, fits a phone, and asks nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("openai")

from browser import Browser
from packing import EXACT, pack_of
from test_server import CONTEXT, TINY, Server, served
from test_server_modules import drawer as artist_pack  # noqa: F401  (fixtures)
from test_server_modules import encoder, place  # noqa: F401
from tiny import write_hf

pytestmark = pytest.mark.browser
PLANS = [
    {"memory": 1e8, "why": "needs more"},
    {
        "memory": 2e8, "tokens_per_s": [10, 20], "first_token_s": [0.1, 0.2], "degradation": [0.01, 0.02],
        "binds": "RAM", "weights": "Q4",
    },
]  # fmt: skip
ANSWERS = {"memory": 2e8, "answer_s": [0.01, 0.02], "degradation": [0.001, 0.002], "binds": "RAM", "weights": "Q8"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    source = write_hf(tmp_path_factory.mktemp("page") / "model", TINY)
    pack = pack_of(source, tmp_path_factory.mktemp("page") / "pack", EXACT, context=CONTEXT, batch=4)
    with served(pack) as one:
        one.serving.planning = lambda: PLANS
        yield one


@pytest.fixture
def page(server: Server) -> Iterator[Browser]:
    with Browser() as one:
        one.screen(1200, 900)
        one.open(server.url)
        one.wait("document.getElementById('model').textContent.includes('tiny')")
        yield one
        assert one.complaints == []
        assert {url.split("/")[2] for url in one.asked if not url.startswith("about:")} == {server.url.split("/")[2]}


def say(page: Browser, text: str) -> None:
    page.find(f"document.getElementById('text').value = {text!r}")
    page.find("document.getElementById('send').click()")


def test_it_tells_what_the_server_tells(page: Browser, server: Server) -> None:
    page.wait("document.getElementById('now').textContent.includes('0, 0, 32')")
    assert "cache" in page.find("document.getElementById('holders').textContent")
    page.wait("!document.getElementById('planning').hidden")
    assert "10 to 20" in page.find("document.getElementById('plan').textContent")
    page.find("(s => { s.value = 0; s.dispatchEvent(new Event('input')) })(document.getElementById('slide'))")
    assert "needs more" in page.find("document.getElementById('plan').textContent")


def test_it_talks(page: Browser, server: Server) -> None:
    page.find("document.getElementById('heat').value = 0; document.getElementById('most').value = 12")
    say(page, "What is a pint?")
    page.wait("messages.length === 2")
    messages = [{"role": "user", "content": "What is a pint?"}]
    wanted = server.client().chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)  # type: ignore[call-overload]
    assert page.find("messages[1].content") == wanted.choices[0].message.content
    assert page.find("document.querySelector('.turn.assistant').textContent") == wanted.choices[0].message.content
    say(page, "And a quart?")
    page.wait("messages.length === 4")
    page.find("document.getElementById('again').click()")
    assert page.find("document.querySelectorAll('.turn').length") == 0


def test_what_goes_wrong_is_said(page: Browser) -> None:
    page.find("document.getElementById('most').value = 0")
    say(page, "Hello")
    page.wait("document.querySelector('.error')?.textContent.includes('max_tokens')")
    assert page.find("messages.length") == 0
    # The browser itself says that a request was refused.
    page.complaints = [one for one in page.complaints if "400" not in one]


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_the_night(page: Browser, tmp_path: Path, dark: bool) -> None:
    page.screen(390, 844, dark)
    assert page.find("document.documentElement.scrollWidth") <= 390
    light = page.find("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (light < 80) == dark
    page.picture(tmp_path / "phone.png")
    assert (tmp_path / "phone.png").stat().st_size > 5000


def test_models_that_do_not_talk_can_be_tried(encoder: Path, artist_pack: Path) -> None:  # noqa: F811
    with served(encoder) as server, Browser() as page:
        server.serving.planning = lambda: [ANSWERS]
        page.screen(1200, 900)
        page.open(server.url)
        page.wait("document.getElementById('model').textContent === 'tiny at /v1/embeddings'")
        page.wait("document.getElementById('plan').textContent.includes('an answer, seconds')")
        assert page.find("[...document.querySelectorAll('.talks')].every(one => one.hidden)")
        say(page, "cat mat\ncat mat\nba be")
        page.wait("document.querySelector('.turn.assistant')?.textContent.includes('32 values each')")
        assert page.find("document.querySelector('.turn.assistant').textContent").startswith(
            "1.000  cat mat\n1.000  cat"
        )
        page.wait("document.getElementById('now').textContent.includes('took in the mean')")
        page.screen(390, 844, True)
        assert page.find("document.documentElement.scrollWidth") <= 390
        assert page.complaints == []
    with served(artist_pack) as server, Browser() as page:
        page.open(server.url)
        page.wait("document.getElementById('model').textContent === 'tiny at /v1/images/generations'")
        say(page, "7")
        page.wait("document.querySelector('.turn img')?.naturalWidth === 8")
        assert page.complaints == []
