"""Encoders, Whisper and a network that draws behind OpenAI's own client: what they answer is what `ask` answers."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import openai
import transformers
from diffusers import DDIMScheduler, DiTTransformer2DModel
from modules import planned
from PIL import Image
from pipelines import drawn
from published import WORDS, recorded, save, save_tokenizer
from test_diffusion import described, written
from test_kinds import BERT, PROCESSOR, VIT
from test_server import Server, served
from test_speech import MANY, publish, sound, write_wav

from pintpot.errors import UnsupportedModel, UsageError
from pintpot.hosting import open_serving
from pintpot.machine.null import null_machine
from pintpot.meter.home import home
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.planner.names import WEIGHTS
from pintpot.runtime.asking import answers, read
from pintpot.runtime.kinds import Answer, Given
from pintpot.runtime.module import open_module
from pintpot.techniques.quantize.as_stored import AsStored

TEXTS = ["cat mat", "ba be bi bo", "dog"]
STEPS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modules-served")


def packed(model: Model, folder: Path) -> Path:
    return write_pack(model, planned(model, AsStored()), folder)


@pytest.fixture(scope="module")
def encoder(place: Path) -> Path:
    folder = save(transformers.BertModel(BERT), place / "bert")
    save_tokenizer(folder)
    modules = [{"type": "a.b.Pooling", "path": "1_Pooling"}, {"type": "Normalize"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return packed(recorded(folder, place / "recorded-bert", batch=2, tokens=8), place / "encoder")


@pytest.fixture(scope="module")
def whisper(place: Path) -> Path:
    return packed(recorded(publish(place / "whisper", **MANY), place / "recorded-whisper"), place / "hears")


@pytest.fixture(scope="module")
def drawer(place: Path) -> Path:
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=1, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    return packed(described(written(place / "dit", drawn(net), DDIMScheduler())), place / "draws")


def asked(pack: Path, given: Given) -> list[Answer]:
    """What the pack answers when nobody serves it."""
    with open_module(pack, null_machine()) as session:
        return list(answers(session, read(session.plan.config, session.folder, given, "it")))


@pytest.fixture(scope="module")
def vectors(encoder: Path) -> list[list[float]]:
    return [one.data["embedding"] for one in asked(encoder, Given(texts=TEXTS))]


@pytest.fixture(scope="module")
def reader(encoder: Path, vectors: list[list[float]]) -> Iterator[Server]:
    with served(encoder) as one:
        yield one
        assert one.serving.service.wait_idle(10)


def test_embeddings_are_those_of_the_model_alone(reader: Server, vectors: list[list[float]]) -> None:
    client = reader.client()
    found = client.embeddings.create(model="tiny", input=TEXTS)
    assert [one.embedding for one in found.data] == [np.float32(one).tolist() for one in vectors]
    assert [one.index for one in found.data] == [0, 1, 2]
    assert found.usage.prompt_tokens == found.usage.total_tokens == 4 + 6 + 3
    as_floats = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    assert [one.embedding for one in as_floats.data] == [one.embedding for one in found.data]
    alone = client.embeddings.create(model="tiny", input=TEXTS[0], dimensions=32)
    assert alone.data[0].embedding == pytest.approx(found.data[0].embedding, abs=1e-6)
    ids = [1, WORDS.index("cat"), WORDS.index("mat"), 2]
    for given in (ids, [ids]):
        by_ids = client.embeddings.create(model="tiny", input=given)
        assert by_ids.data[0].embedding == alone.data[0].embedding
        assert by_ids.usage.prompt_tokens == 4
    status, raw = reader.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "cat", "encoding_format": "base64"})
    assert (status, len(base64.b64decode(raw["data"][0]["embedding"]))) == (200, 4 * 32)


def test_what_is_told_of_it(reader: Server) -> None:
    (model,) = reader.client().models.list()
    assert (model.id, model.endpoints, model.context_length) == ("tiny", ["/v1/embeddings"], 8)
    reader.client().embeddings.create(model="tiny", input=TEXTS)
    gauges = reader.ask("GET", "/metrics.json")[1]
    assert gauges["endpoints"] == ["/v1/embeddings"]
    assert gauges["requests"]["accepted"] >= gauges["requests"]["end"] >= 1
    assert gauges["memory"]["holders"][WEIGHTS] > 0
    assert {"answers", "promised_s", "took_s"} <= set(gauges), "the page reads them"
    text = reader.ask("GET", "/metrics")[1].decode()
    assert "pintpot_answer_seconds_count" in text
    assert 'pintpot_requests_total{outcome="accepted"}' in text
    paths = reader.ask("GET", "/openapi.json")[1]["paths"]
    assert "/v1/embeddings" in paths
    assert "/v1/chat/completions" not in paths
    assert reader.ask("GET", "/health") == (200, {"status": "ok"})
    assert reader.ask("GET", "/")[0] == 200


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"input": "cat " * 7}, None, "9 tokens; this model was opened for texts of at most 8"),
        ({"input": [[1, 999]]}, None, "tokens are 0 to"),
        ({"input": []}, "input", "a list of either, not an empty list"),
        ({"input": [1, "cat"]}, "input[1]", "a number"),
        ({"input": [[]]}, "input[0]", "not an empty list"),
        ({"dimensions": 16}, "dimensions", "gives 32 dimensions"),
        ({"encoding_format": "hex"}, "encoding_format", "one of float, base64"),
        ({"input": "\ud800"}, None, "surrogate"),
    ],
)
def test_what_an_encoder_refuses(reader: Server, change: Any, param: str | None, said: str) -> None:
    status, answer = reader.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "cat"} | change)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error"), answer
    assert said in answer["error"]["message"]
    assert answer["error"]["param"] == param


def test_errors_are_those_of_the_client(reader: Server) -> None:
    client = reader.client()
    with pytest.raises(openai.NotFoundError, match="does not answer at /v1/chat/completions; it does at /v1/emb"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}])
    with pytest.raises(openai.NotFoundError, match="does not answer at /v1/audio/transcriptions"):
        client.audio.transcriptions.create(model="tiny", file=("a.wav", b"RIFF"))
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.embeddings.create(model="other", input="cat")
    with pytest.raises(openai.BadRequestError, match="at most 8"):
        client.embeddings.create(model="tiny", input="cat " * 100)


def test_many_at_once_get_what_they_get_alone(reader: Server, vectors: list[list[float]]) -> None:
    found: dict[int, list[float]] = {}

    def ask(index: int) -> None:
        made = reader.client().embeddings.create(model="tiny", input=TEXTS[index % 3], user=f"u{index % 4}")
        found[index] = made.data[0].embedding

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(12):
        assert found[index] == pytest.approx(vectors[index % 3], abs=1e-6)


# --- What hears -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(place: Path) -> Path:
    """A little more than one piece."""
    return write_wav(place / "said.wav", sound(1, 32.0))


@pytest.fixture(scope="module")
def words(whisper: Path, spoken: Path) -> dict[str, list[str]]:
    languages = {"": "", "de": "de"}
    return {key: [one.text for one in asked(whisper, Given(audios=(spoken,), language=key))] for key in languages}


@pytest.fixture(scope="module")
def hearer(whisper: Path, words: dict[str, list[str]]) -> Iterator[Server]:
    with served(whisper) as one:
        yield one
        assert one.serving.service.wait_idle(30)


def test_transcripts_are_those_of_the_model_alone(hearer: Server, spoken: Path, words: dict[str, list[str]]) -> None:
    create = hearer.client().audio.transcriptions.create
    assert len(words[""]) == 2
    whole = create(model="tiny", file=spoken)
    assert whole.text == " ".join(words[""])
    assert whole.usage.seconds == pytest.approx(32.0)
    as_text = create(model="tiny", file=spoken, response_format="text", temperature=0)
    assert str(as_text).strip() == whole.text
    german = create(model="tiny", file=spoken, language="de", response_format="verbose_json")
    assert german.text == " ".join(words["de"])
    assert (german.language, float(german.duration)) == ("de", pytest.approx(32.0))
    assert [(one.start, one.end) for one in german.segments] == [(0.0, 30.0), (30.0, 32.0)]
    assert [one.text for one in german.segments] == words["de"]
    events = list(create(model="tiny", file=spoken, stream=True))
    assert [one.type for one in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(one.delta for one in events[:-1]) == events[-1].text == whole.text


@pytest.mark.parametrize(
    ("how", "param", "said"),
    [
        ({"file": ("talk.wav", b"no sound at all")}, "file", r"talk.wav is no WAV file; `ffmpeg -i talk.wav talk.wav`"),
        ({"file": ("a.wav", b"")}, "file", "a.wav is no WAV file"),
        ({"language": "xx"}, "language", "language 'xx' is not known to this model; it hears de, en"),
        ({"response_format": "srt"}, "response_format", "ask for json, text or verbose_json"),
        ({"temperature": 0.5}, "temperature", "temperature is 0"),
        ({"prompt": "Names"}, "prompt", "not offered"),
        ({"timestamp_granularities": ["word"], "response_format": "verbose_json"}, "timestamp_granularities[]", "half"),
    ],
)
def test_what_a_hearer_refuses(hearer: Server, spoken: Path, how: Any, param: str, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        hearer.client().audio.transcriptions.create(**{"model": "tiny", "file": spoken, **how})
    assert caught.value.param == param
    assert "/proc" not in str(caught.value)


def test_forms_that_are_none(hearer: Server) -> None:
    path, sent = "/v1/audio/transcriptions", {"Content-Type": "multipart/form-data; boundary=B"}
    part = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
    for body, said in (
        (b"", "ends in the middle"),
        (part, "ends in the middle"),
        (part + b"--B--\r\n", "file is missing"),
        (b"--B\r\nno head\r\n\r\n\r\n--B--", "has no name"),
        (b"--B and more\r\n", "middle of a line"),
        (b"--B\r\n" + b"x" * 9000, "head of a part"),
        (b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"x" * 70_000 + b"\r\n--B--", "too long"),
    ):
        status, answer = hearer.ask("POST", path, body, sent)
        assert (status, said in str(answer)) == (400, True), answer
    status, answer = hearer.ask("POST", path, {"model": "tiny"})
    assert (status, "multipart/form-data" in answer["error"]["message"]) == (400, True)
    assert not list((home() / "uploads").iterdir()), "no file outlives its request"


def test_what_takes_longer_than_answers_may_is_refused_at_the_door(whisper: Path, spoken: Path) -> None:
    with served(whisper, answer_s=1e-9) as server, pytest.raises(openai.BadRequestError, match="takes at least") as no:
        server.client().audio.transcriptions.create(model="tiny", file=spoken)
    assert no.value.code == "does_not_fit"


# --- What draws -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(drawer: Path) -> list[np.ndarray]:
    found = asked(drawer, Given(labels=(7, 7), seed=5, steps=STEPS, guidance=2.0))
    return [one.picture for one in found if one.picture is not None]


@pytest.fixture(scope="module")
def artist(drawer: Path, pictures: list[np.ndarray]) -> Iterator[Server]:
    with served(drawer, answer_s=1e9) as one:  # none is refused for what this machine was measured to take
        yield one
        assert one.serving.service.wait_idle(30)


def seen(one: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(one.b64_json))))


def test_pictures_are_those_of_the_model_alone(artist: Server, pictures: list[np.ndarray]) -> None:
    generate = artist.client().images.generate
    more = {"seed": 5, "steps": STEPS, "guidance": 2.0}
    found = generate(model="tiny", prompt="7", n=2, size="8x8", response_format="b64_json", extra_body=more)
    assert [one.seed for one in found.data] == [5, 6]
    assert all(np.array_equal(seen(one), due) for one, due in zip(found.data, pictures, strict=True))
    drawn_alike = generate(prompt=" 7 ", extra_body={"seed": 9})
    assert not np.array_equal(seen(drawn_alike.data[0]), pictures[0])


@pytest.mark.parametrize(
    ("how", "param", "said"),
    [
        ({"prompt": "a cat"}, "prompt", "the prompt is its number, 0 to 9"),
        ({"prompt": "10"}, None, "label 10; this model draws 0 to 9"),
        ({"size": "1024x1024"}, "size", "pictures of 8x8, and of no other size"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_format": "jpeg"}, "output_format", "png"),
        ({"n": 11}, "n", "within 1 to 10"),
        ({"extra_body": {"stream": True}}, "stream", "stream"),
    ],
)
def test_what_an_artist_refuses(artist: Server, how: Any, param: str | None, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        artist.client().images.generate(**{"model": "tiny", "prompt": "1", **how})
    assert caught.value.param == param


def test_a_client_that_leaves_is_not_drawn_for(artist: Server) -> None:
    body = json.dumps({"prompt": "1", "n": 10, "steps": 1000}).encode()
    with socket.create_connection(("127.0.0.1", artist.port)) as connection:
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        waited_for(lambda: artist.serving.service.running_and_waiting() == (1, 0), connection)
    assert artist.serving.service.wait_idle(20)
    assert artist.serving.service.counts.ended["cancelled"] == 1


def waited_for(holds: Callable[[], bool], asked_on: socket.socket | None = None) -> None:
    """Until it holds, or for 30 seconds: then what came back on the connection says why."""
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until, asked_on and answered(asked_on)
        time.sleep(0.01)


def answered(connection: socket.socket) -> bytes:
    connection.setblocking(False)
    try:
        return connection.recv(4096)
    except BlockingIOError:
        return b"nothing"


def test_too_many_wait_and_late_ones_are_ended(drawer: Path) -> None:
    with served(drawer, waiting=1) as server:
        service = server.serving.service
        ended: list[Any] = []
        long = Given(labels=(1,) * 10, steps=1000)
        first = service.submit(long, ended.append)
        waited_for(lambda: service.running_and_waiting() == (1, 0))
        service.submit(long, ended.append)
        with pytest.raises(openai.RateLimitError, match="1 requests wait already"):
            server.client().images.generate(prompt="1")
        service._asked[first + 1].deadline = 0.0
        waited_for(lambda: service.counts.ended["deadline"] == 1)
        service._asked[first].deadline = 0.0
        waited_for(lambda: service.counts.ended["deadline"] == 2)
        assert [one.ended for one in ended if not isinstance(one, Answer)] == ["deadline", "deadline"]
        with pytest.raises(UsageError, match="takes --label"):
            service.submit(Given(texts=("a",)), ended.append)


def test_other_kinds_are_not_served(place: Path) -> None:
    folder = save(transformers.ViTForImageClassification(VIT), place / "vit", PROCESSOR)
    pack = packed(recorded(folder, place / "recorded-vit"), place / "classifies")
    with pytest.raises(UnsupportedModel, match="of a kind that is not served"):
        open_serving(pack)
    with pytest.raises(UsageError, match="that a draft could guess"):
        open_serving(pack, draft=pack)
