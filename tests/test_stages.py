"""Modules of several stages: what lasts from call to call, what each stage costs, and what is refused."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from modules import lacking, opened, planned, question_of
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

import pintpot
from pintpot.errors import UnsupportedModel, UsageError
from pintpot.kernels.torch.examples import Example
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets._recorded import adapt_stages
from pintpot.packer.pack import write_pack
from pintpot.planner import allocate
from pintpot.planner.assess import Bench
from pintpot.proof import module_quality
from pintpot.runtime.module import ModuleSession
from pintpot.stream.ring import ring_stats
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored

WIDTH, HEADS, SEEN, WORDS, MOST = 64, 4, 12, 50, 9


class Attention(nn.Module):
    def __init__(self, memory: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, HEADS, memory, WIDTH // HEADS), persistent=False)

    def keep(self, x: torch.Tensor, at: torch.Tensor) -> None:
        """Write keys and values of x in their places."""
        for place, layer in ((self.keys, self.k), (self.values, self.v)):
            place.index_copy_(2, at, layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q = self.q(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)
        return self.o(mixed.transpose(1, 2).flatten(2))


class Translator(nn.Module):
    """Reads once, then writes word by word: over what it wrote, and over what it read."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.words = nn.Linear(8, WIDTH), nn.Embedding(WORDS, WIDTH)
        self.own, self.other = Attention(MOST), Attention(SEEN)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.register_buffer("places", torch.arange(MOST), persistent=False)
        self.register_buffer("rows", torch.arange(SEEN), persistent=False)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        seen = functional.gelu(self.read(x))
        self.other.keep(seen, self.rows)
        return seen.mean(1)

    def decode(self, word: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        x = self.words(word)
        self.own.keep(x, at)
        x = x + self.own(x, (self.places <= at)[None, None, None])
        return self.head(x + self.other(x))[:, -1]

    def whole(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """The logits behind each of the words, all at once and without a cache."""
        seen, written = functional.gelu(self.read(x)), self.words(words)

        def mixed(at: Attention, x: torch.Tensor, over: torch.Tensor, causal: bool) -> torch.Tensor:
            q, k, v = (
                layer(one).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for layer, one in ((at.q, x), (at.k, over), (at.v, over))
            )
            return at.o(functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2))

        written = written + mixed(self.own, written, written, True)
        return self.head(written + mixed(self.other, written, seen, False))


EXAMPLES = (
    Example("encode", torch.ones(1, SEEN, 8), "encode"),
    Example("decode", (torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)), "decode", "output"),
)


@pytest.fixture(scope="module")
def net() -> Translator:
    torch.manual_seed(11)
    return Translator().eval()


@pytest.fixture(scope="module")
def model(net: Translator, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return adapt_stages(net, EXAMPLES, name="translator", folder=tmp_path_factory.mktemp("adapted") / "net")


def written(session: ModuleSession, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    session.reset()
    session.stage("encode")(x)
    decode = session.stage("decode")
    return torch.stack([decode(words[:, at : at + 1], torch.tensor([at])) for at in range(words.shape[1])], 1)


def test_stages_share_weights_and_what_lasts(net: Translator, model: Model, tmp_path: Path) -> None:
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        assert session.stages == ("encode", "decode")
        for turn in range(2):
            x, words = torch.randn(1, SEEN, 8), (torch.arange(MOST) * (turn + 3) % WORDS)[None]
            torch.testing.assert_close(written(session, x, words), net.whole(x, words), atol=1e-5, rtol=1e-4)
        assert not any(one.any() for one in (net.own.keys, net.other.values))
        with pytest.raises(UsageError, match=r"several stages; call stage\('encode'\)"):
            session(x)
        with pytest.raises(UsageError, match="the stages encode, decode, not forward"):
            session.stage("forward")


def test_what_lasts_is_named_once_held_as_cache_and_forgotten(model: Model, tmp_path: Path) -> None:
    config = model.parts[0].config
    assert sorted(config["state"]) == ["other.keys", "other.values", "own.keys", "own.values"]
    assert sorted(config["constants"]) == ["places", "rows"]
    plan = planned(model, AsStored())
    (cache,) = (holder for holder in plan.cost.holders if holder.name == "cache")
    assert cache.low == cache.high == 2 * 4 * WIDTH * (MOST + -(-SEEN * WIDTH // 64) * 64 // WIDTH)
    with opened(model, tmp_path, AsStored()) as session:
        word, at = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        fresh = session.stage("decode")(word, at)
        session.stage("encode")(torch.randn(1, SEEN, 8))
        assert not torch.equal(session.stage("decode")(word, at), fresh)
        session.reset()
        assert torch.equal(session.stage("decode")(word, at), fresh)


def test_each_stage_costs_as_often_as_it_runs(model: Model) -> None:
    stages = {stage.name: stage for stage in planned(model, AsStored()).cost.stages}
    assert {name: stage.replays for name, stage in stages.items()} == {"encode": 1, "decode": 1}
    twice = Example("decode", EXAMPLES[1].inputs, "decode", 7)
    torch.manual_seed(11)
    often = adapt_stages(Translator().eval(), (EXAMPLES[0], twice))
    cost = planned(often, AsStored()).cost
    assert cost.stage("decode").replays == 7
    assert cost.stage("decode").multiply_adds == pytest.approx(7 * stages["decode"].multiply_adds)
    assert cost.per_token_s.mid == pytest.approx(cost.stage("decode").seconds.mid / 7)


def test_stages_that_stream_give_the_same(net: Translator, model: Model, tmp_path: Path) -> None:
    x, words = torch.randn(1, SEEN, 8), torch.arange(MOST)[None]
    with opened(model, tmp_path / "whole", AsStored()) as session:
        exact = written(session, x, words)
    place = Streamed(resident_bytes=0, slot_bytes=8192, num_slots=4, in_flight=2)
    with opened(model, tmp_path / "streamed", AsStored(), place) as session:
        assert session.plan.form.disk_bytes > 8 * WIDTH**2
        for _ in range(2):
            assert torch.equal(written(session, x, words), exact)
        for _ in range(3):
            session.stage("encode")(x)
        assert torch.equal(written(session, x, words), exact)
    with torch.inference_mode():
        assert lacking(exact, net.whole(x, words)) < 1e-6


def test_a_proof_of_stages(model: Model, tmp_path: Path) -> None:
    folder = write_pack(model, pintpot.plan(model, memory="800MB"), tmp_path / "pack")
    proof = pintpot.prove(folder, runs=1)
    assert {one.output for one in proof.likeness} == {"encode", "decode"}
    assert proof.row("decode").measured > 0
    assert proof.row("memory").holds
    assert proof.row("degradation").holds


class Odd(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("total", torch.full((8,), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += self.layer(x).sum(0)
        return self.total


def test_a_buffer_that_lasts_begins_at_zero(tmp_path: Path) -> None:
    module, x = Odd(0.0).eval(), torch.ones(2, 8)
    model = pintpot.adapt(module, x, folder=tmp_path / "odd")
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(session(x), module(x))
    with pytest.raises(UnsupportedModel, match="writes to its buffer total, which does not begin at zero"):
        pintpot.adapt(Odd(1.0), x, folder=tmp_path / "none")
    with pytest.raises(UsageError, match="named once each"):
        adapt_stages(module, (Example("one", x), Example("one", x)))


def test_writing_a_few_rows_of_what_lasts_costs_those_rows() -> None:
    class Kept(nn.Module):
        def __init__(self, memory: int) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)
            self.register_buffer("rows", torch.zeros(memory, 8))

        def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            self.rows.index_copy_(0, at, self.layer(x))
            return self.layer(x)

    given = (torch.ones(2, 8), torch.arange(2))
    small, large = (
        planned(pintpot.adapt(Kept(memory).eval(), given), AsStored()).cost.stage("forward").ram_bytes
        for memory in (16, 4096)
    )
    assert small == large


def test_what_a_request_needs_once_is_the_first_to_leave(net: Translator, tmp_path: Path) -> None:
    examples = (EXAMPLES[0], Example("decode", EXAMPLES[1].inputs, "decode", 50))
    model = adapt_stages(net, examples, name="often", folder=tmp_path / "net")
    names = {weight.name for part in model.parts for weight in part.weights() if len(weight.shape) == 2}
    once = {name for name in names if name.startswith("once.")}
    assert len(once) == 3, names
    plan = planned(model, AsStored())
    looked_up = plan.form.weights.looked_up
    often = sum(w.num_bytes for w in plan.form.weights if w.is_matrix and w.name not in once | looked_up)
    place = Streamed(resident_bytes=often, slot_bytes=8192, num_slots=4, in_flight=2)
    streamed = planned(model, AsStored(), place)
    assert {w.name for w in streamed.form.weights if w.disk_bytes} == once | looked_up
    x, words = torch.randn(1, SEEN, 8), torch.arange(MOST)[None]
    with opened(model, tmp_path / "streamed", AsStored(), place) as session, torch.inference_mode():
        torch.testing.assert_close(written(session, x, words), net.whole(x, words), atol=1e-5, rtol=1e-4)


class Placed(nn.Module):
    """Reads once, by a table of places that only this stage looks up, then answers often."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.read, self.write = nn.Embedding(SEEN, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 512)
        self.register_buffer("seen", torch.zeros(1, SEEN, WIDTH), persistent=False)
        self.register_buffer("rows", torch.arange(SEEN), persistent=False)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.copy_(self.read(x + self.places(self.rows)))
        return self.seen.sum(1)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return self.write(x * self.seen.mean(1))


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Model:
    examples = (
        Example("encode", torch.ones(1, SEEN, WIDTH), "encode"),
        Example("decode", torch.ones(1, WIDTH), "decode", 50),
    )
    return adapt_stages(Placed().eval(), examples, name="placed", folder=tmp_path_factory.mktemp("placed") / "net")


def test_a_place_takes_no_more_than_there_is(placed: Model) -> None:
    """Weights that a stage looks up and runs once are on disk whole, and no part of what others share RAM by."""
    form = planned(placed, AsStored()).form
    names, passing = form.weights.looked_up, form.weights.passing_bytes
    assert any(name.startswith("once.") for name in names)
    for resident in range(0, passing, 4096):
        split = Streamed(resident_bytes=resident, slot_bytes=8192).split(form.weights)
        assert split.ram_bytes - form.weights.vector_bytes <= resident
    bench = Bench(question_of(placed))
    draft, rings = bench.draft((AsStored(),)), (Streamed(slot_bytes=8192, num_slots=4, in_flight=2),)
    least = allocate.smallest_bytes(bench, draft, rings)
    for memory in range(least, draft.whole_bytes + 8192, 4096):
        assert allocate.place(bench, draft, rings, memory).price(bench).cost.memory_high <= memory


def test_each_answer_reads_what_was_promised(placed: Model, tmp_path: Path) -> None:
    """The stage before the answers streams too: what answers read ahead is for the next answer."""
    where = Streamed(resident_bytes=0, slot_bytes=8192, num_slots=4, in_flight=2)
    with opened(placed, tmp_path, AsStored(), where) as session:
        promised, ring = session.plan.cost.stages[-1].disk_bytes_per_replay, session.ring
        assert session.plan.cost.stages[0].disk_bytes > 0

        def request(answers: int) -> int:
            before = ring_stats(ring).bytes_read
            session.stage("encode")(torch.ones(1, SEEN, WIDTH))
            for _ in range(answers):
                session.stage("decode")(torch.ones(1, WIDTH))
                time.sleep(0.002)
            return ring_stats(ring).bytes_read - before

        request(3)
        assert abs(request(23) - request(3) - 20 * promised) <= 2 * 4 * 8192


def test_large_weights_of_the_reference_are_read_some_rows_at_a_time(
    placed: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_quality, "MOST_READ_BYTES", 100 * 4 * WIDTH)
    x, net = torch.randn(1, SEEN, WIDTH), Placed().eval()
    with ExitStack() as closing, Store(placed) as store:
        unpacked = module_quality.Unpacked(placed, store, question_of(placed).budget.workload, closing)
        seen = unpacked({"0": x.numpy()}, "encode")["answer"]
        given = unpacked({"0": seen[:, :WIDTH]}, "decode")["answer"]
    own = load_file(Path(placed.source.path) / "weights.safetensors")
    net.load_state_dict(own, strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(seen), net.encode(x))
        torch.testing.assert_close(torch.from_numpy(given), net.decode(torch.from_numpy(seen)))
