"""The server over a real socket: OpenAI's own client, what it is refused, clients that leave, and an orderly end."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("llguidance")

import openai
from packing import EXACT, MACHINE, opened, pack_of
from tiny import Tiny, write_hf

from pintpot import api
from pintpot.errors import UsageError
from pintpot.hosting import ahead, open_serving
from pintpot.runtime.request import Request, Sampling
from pintpot.server.run import listen, serve_until_stopped
from pintpot.server.serving import Serving

TINY = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=21)
CONTEXT = 256
KEY = "a key"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_hf(tmp_path_factory.mktemp("server") / "model", TINY)
    return pack_of(source, tmp_path_factory.mktemp("server") / "tiny", EXACT, context=CONTEXT, batch=4)


class Server:
    """A server in a thread of this process."""

    def __init__(self, serving: Serving, key: str) -> None:
        self.serving, self.key = serving, key
        self.url = ""
        self._ready = threading.Event()
        self._listening = listen("127.0.0.1", 0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(30)
        self.port = int(self.url.rsplit(":", 1)[1])

    def _run(self) -> None:
        serve_until_stopped(self.serving, self._listening, self.key, self._told)

    def _told(self, url: str) -> None:
        self.url = url
        self._ready.set()

    def close(self) -> None:
        self.serving.stop()
        self._thread.join(30)
        self._listening.close()

    def client(self, **how: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, **how)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Authorization": f"Bearer {self.key}"} | (headers or {}))
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text
        finally:
            connection.close()


@contextmanager
def served(pack: Path, key: str = "", **how: Any) -> Iterator[Server]:
    with open_serving(pack, name="tiny", **how) as serving:
        server = Server(serving, key)
        try:
            yield server
        finally:
            server.close()


@pytest.fixture(scope="module")
def server(pack: Path) -> Iterator[Server]:
    with served(pack, KEY) as one:
        yield one
        assert one.serving.service.wait_idle(10)
        assert one.serving.service.audit() == []


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a pint?"}]


def alone(pack: Path, text: str, count: int) -> str:
    with opened(pack) as session:
        return "".join(session.complete(text, sampling=Sampling(temperature=0.0), max_tokens=count))


def test_models(server: Server) -> None:
    assert [model.id for model in server.client().models.list()] == ["tiny"]
    assert server.client().models.retrieve("tiny").owned_by == "pintpot"
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        server.client().models.retrieve("another")


def test_a_chat_whole_and_in_pieces(server: Server) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = server.client().chat.completions.create(**asked)
    choice = whole.choices[0]
    assert choice.finish_reason in ("length", "stop")
    assert choice.message.role == "assistant"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    pieces = list(server.client().chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said == choice.message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-2].choices[0].finish_reason == choice.finish_reason
    assert pieces[-1].usage == whole.usage
    assert pieces[-1].choices == []


def test_a_completion_is_that_of_the_model_alone(server: Server, pack: Path) -> None:
    text = "A pint is more than"
    whole = server.client().completions.create(model="tiny", prompt=text, max_tokens=20, temperature=0)
    assert whole.choices[0].text == alone(pack, text, 20)
    both = server.client().completions.create(model="tiny", prompt=[text, "Why"], max_tokens=20, temperature=0)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert [choice.text for choice in both.choices] == [alone(pack, text, 20), alone(pack, "Why", 20)]
    ids = server.serving.session.tokenizer.encode(text)
    by_ids = server.client().completions.create(model="tiny", prompt=ids, max_tokens=20, temperature=0)
    assert by_ids.choices[0].text == whole.choices[0].text


def test_seeds_repeat_and_choices_differ(server: Server) -> None:
    def ask(seed: int) -> list[str]:
        answer = server.client().completions.create(model="tiny", prompt="Once", max_tokens=24, n=3, seed=seed)
        return [choice.text for choice in answer.choices]

    first = ask(5)
    assert len(set(first)) == 3
    assert ask(5) == first
    assert ask(-6) != first


def test_a_stop_text_ends_an_answer_and_is_not_said(server: Server, pack: Path) -> None:
    whole = alone(pack, "A pint", 30)
    stop = whole[10:13]
    answer = server.client().completions.create(model="tiny", prompt="A pint", max_tokens=30, temperature=0, stop=stop)
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens < 30


def test_log_probabilities(server: Server) -> None:
    chat = server.client().chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )  # type: ignore[call-overload]
    told = chat.choices[0].logprobs.content
    assert len(told) == chat.usage.completion_tokens
    for token in told:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0
    plain = server.client().completions.create(model="tiny", prompt="A", max_tokens=4, temperature=0, logprobs=2)
    logprobs = plain.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens or []) == len(logprobs.token_logprobs or []) == 4


def test_a_bias_and_penalties_decide_words(server: Server) -> None:
    word = server.serving.session.tokenizer.encode(" the")[0]
    asked: dict[str, Any] = {"model": "tiny", "prompt": "A", "max_tokens": 6, "temperature": 0}
    biased = server.client().completions.create(**asked, logit_bias={str(word): 100})
    assert biased.choices[0].text == server.serving.session.tokenizer.decode([word] * 6)
    bent = server.client().completions.create(**asked, logit_bias={str(word): 40}, frequency_penalty=2)
    assert bent.choices[0].text.startswith(server.serving.session.tokenizer.decode([word]))


def test_answers_follow_a_schema(server: Server) -> None:
    """A model of drawn weights, and yet every answer that ends is what was asked for."""
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["pint", "quart"]}, "holds": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["name", "holds"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "vessel", "schema": schema}}
    for seed in range(3):
        answer = server.client().chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=80, seed=seed, response_format=wanted
        )  # type: ignore[call-overload]
        found = json.loads(answer.choices[0].message.content)
        assert found["name"] in ("pint", "quart")
        assert 1 <= found["holds"] <= 9
    free = server.client().chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=60, seed=1, response_format={"type": "json_object"}
    )  # type: ignore[call-overload]
    assert free.choices[0].message.content.startswith("{")
    with pytest.raises(openai.BadRequestError, match="schema cannot be followed"):
        wanted["json_schema"]["schema"] = {"type": "nothing"}
        server.client().chat.completions.create(model="tiny", messages=MESSAGES, response_format=wanted)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"temperature": 9}, "temperature", "within 0 to 2"),
        ({"temperature": "hot"}, "temperature", "a number, not a text"),
        ({"messages": []}, "messages", "1 to 4096 items"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "one of system"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"n": 99}, "n", "within 1 to 8"),
        ({"n": True}, "n", "a number"),
        ({"tools": [{"type": "function"}]}, "tools", "0 to 0 items"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "ids of tokens"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "99999"),
        ({"top_logprobs": 2}, None, "goes with logprobs"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, None, "the context holds 256"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None, "surrogate"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
    ],
)
def test_what_cannot_be_is_refused_by_name(server: Server, change: Any, param: str | None, said: str) -> None:
    body = {"model": "tiny", "messages": MESSAGES} | change
    status, answer = server.ask("POST", "/v1/chat/completions", body)
    assert status == 400, answer
    assert said in answer["error"]["message"]
    assert answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"


def test_bodies_that_are_none(server: Server) -> None:
    path = "/v1/chat/completions"
    for body in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'"text"', b"null", b'{"model": NaN}'):
        assert server.ask("POST", path, body)[0] == 400
    assert server.ask("POST", path, b" " * (server.serving.limits.body_bytes + 1))[0] == 413
    assert server.ask("GET", path)[0] == 405
    assert server.ask("GET", "/v1/nothing")[0] == 404
    assert server.ask("POST", path, {"model": "other", "messages": MESSAGES})[0] == 404


def test_the_door(server: Server) -> None:
    assert server.ask("GET", "/v1/models", headers={"Authorization": "Bearer wrong"})[0] == 401
    assert server.ask("GET", "/v1/models", headers={"Authorization": ""})[0] == 401
    assert server.ask("GET", "/health", headers={"Authorization": ""})[0] == 200
    assert server.ask("GET", "/", headers={"Authorization": ""})[0] == 200
    assert server.ask("GET", "/v1/models", headers={"Host": "evil.example"})[0] == 403
    assert server.ask("GET", "/v1/models", headers={"Origin": "http://evil.example"})[0] == 403
    own = {"Origin": server.url, "Host": server.url.removeprefix("http://")}
    assert server.ask("GET", "/v1/models", headers=own)[0] == 200


def test_numbers_for_scrapers_and_for_the_page(server: Server) -> None:
    server.client().completions.create(model="tiny", prompt="A", max_tokens=3)
    status, text = server.ask("GET", "/metrics")
    assert status == 200
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert float(lines['pintpot_requests_total{outcome="accepted"}']) >= 1
    assert float(lines['pintpot_memory_bytes{of="peak"}']) >= float(lines['pintpot_memory_bytes{of="now"}']) > 0
    assert lines["pintpot_first_token_seconds_count"] == lines['pintpot_first_token_seconds_bucket{le="+Inf"}']
    gauges = server.ask("GET", "/metrics.json")[1]
    assert gauges["pages"]["total"] == 4 * CONTEXT // 32
    assert server.ask("GET", "/openapi.json")[1]["openapi"] == "3.1.0"


def test_the_page_asks_nobody_else_for_anything(server: Server) -> None:
    status, page = server.ask("GET", "/")
    assert status == 200
    text = page.decode()
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)
    assert not re.findall(r"<(?:link|img|iframe|script src)", text)
    of_modules = {"answers", "promised_s", "took_s"}  # told of models that do not talk: test_server_modules.py
    wanted = set(re.findall(r"now\.(\w+)", text)) - {"toFixed"} - of_modules
    assert wanted <= set(server.ask("GET", "/metrics.json")[1]), "the page reads what the server tells"


def test_what_other_budgets_would_bring(server: Server, pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "this_machine", lambda **how: MACHINE)
    monkeypatch.setattr(ahead, "NUM_BUDGETS", 3)
    monkeypatch.setattr(server.serving, "planning", lambda: ahead.plans_of(pack))
    found = server.ask("GET", "/plans.json")[1]["plans"]
    memory = [one["memory"] for one in found]
    assert len(memory) == 3
    assert memory == sorted(memory)
    fits = [one for one in found if "why" not in one]
    assert fits
    assert all(one["tokens_per_s"][0] <= one["tokens_per_s"][1] and one["binds"] for one in fits)


def test_a_client_that_leaves_frees_its_place(server: Server) -> None:
    for stream in (True, False):
        body = json.dumps({"model": "tiny", "prompt": "A", "max_tokens": 200, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
            connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if stream:
                assert connection.recv(100)
        assert server.serving.service.wait_idle(20)


def test_silent_and_slow_connections_do_not_stop_others(pack: Path) -> None:
    with served(pack) as server:
        object.__setattr__(server.serving.limits, "head_s", 0.5)
        object.__setattr__(server.serving.limits, "body_s", 0.5)
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for connection in silent[:10]:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        assert server.client().completions.create(model="tiny", prompt="A", max_tokens=3).choices
        for connection in silent:
            connection.settimeout(20)
            answer = connection.recv(1000)
            assert answer == b"" or b" 408 " in answer
            connection.close()


def test_many_clients_get_what_they_get_alone(server: Server, pack: Path) -> None:
    prompts = [f"{'A pint is a measure of what one may drink. ' * (index % 3)}Number {index}" for index in range(12)]
    found: dict[int, str] = {}

    def ask(index: int) -> None:
        answer = server.client().completions.create(model="tiny", prompt=prompts[index], max_tokens=16, temperature=0)
        found[index] = answer.choices[0].text

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(12)] == [alone(pack, prompt, 16) for prompt in prompts]


def test_too_many_are_told_to_come_again(pack: Path) -> None:
    with served(pack, waiting=1) as server:
        ears = [server.serving.service.submit(Request((5,), 250), lambda one: None) for _ in range(5)]
        with pytest.raises(openai.RateLimitError, match="try again later"):
            server.client().completions.create(model="tiny", prompt="A")
        for number in ears:
            server.serving.service.leave(number)


def test_an_answer_that_takes_too_long_is_ended(pack: Path) -> None:
    with served(pack, answer_s=0.0) as server:
        with pytest.raises(openai.APIStatusError) as caught:
            server.client().completions.create(model="tiny", prompt="A", max_tokens=200)
        assert caught.value.status_code == 504


def test_a_draft_guesses_and_changes_no_answer(pack: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "A pint is", "max_tokens": 40, "temperature": 0}
    with served(pack) as server:
        wanted = server.client().completions.create(**asked).choices[0].text
    with served(pack, draft=pack) as server:
        assert server.client().completions.create(**asked).choices[0].text == wanted
        assert server.ask("GET", "/metrics.json")[1]["guesses"]["right"] > 0
    strange = write_hf(tmp_path / "strange", replace(TINY, pre="qwen2"))
    other = pack_of(strange, tmp_path / "other", EXACT, context=CONTEXT)
    with pytest.raises(UsageError, match="reads words otherwise"):
        open_serving(pack, draft=other)


def test_what_drains_takes_nothing_new(pack: Path) -> None:
    with served(pack) as server:
        server.serving.draining = True
        assert server.ask("GET", "/health")[0] == 503
        with pytest.raises(openai.RateLimitError, match="closing"):
            server.client().completions.create(model="tiny", prompt="A")
