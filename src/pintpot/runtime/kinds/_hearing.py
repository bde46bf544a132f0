"""Sound as speech models take it: WAV files at 16,000 samples a second, and log-mel spectrograms of them, by numpy.

A file is read piece by piece, so that an hour of it takes no more memory than half a minute.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil, gcd
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, need

RATE: Final = 16_000
FRAME: Final = 400
HOP: Final = 160
"""Samples that a spectrum is of, and from one to the next: 25 and 10 milliseconds."""
LEAST: Final = 1e-10
RANGE: Final = 8.0
"""Powers of ten below the loudest that are told apart."""
_TAPS: Final = 24
"""Zero crossings of the filter to each side of a sample, where a file has another rate."""
_MOST_RATE: Final = 192_000
_AT_ONCE: Final = 1 << 13
"""Samples that are made of their neighbours together."""
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LINEAR_BELOW: Final = 1000.0
_DTYPES: Final = {(_PCM, 8): "u1", (_PCM, 16): "<i2", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4", (_FLOAT, 64): "<f8"}

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Wav:
    """A WAV file: `num_samples` for each of `channels`, from byte `start` on."""

    path: Path
    encoding: int
    bits: int
    channels: int
    rate: int
    start: int
    num_samples: int

    @property
    def seconds(self) -> float:
        return self.num_samples / self.rate

    def samples(self, first: int, count: int) -> Floats:
        """Samples of all channels together, between -1 and 1; silence before the file's start and behind its end."""
        begin, end = max(0, first), min(self.num_samples, first + count)
        out, frame, block = np.zeros(count, np.float32), self.channels * self.bits // 8, (1 << 20) // self.channels
        with self.path.open("rb") as file:
            for at in range(begin, end, block):
                file.seek(self.start + at * frame)
                data = file.read(min(block, end - at) * frame)
                found = self._values(data).reshape(-1, self.channels).mean(axis=1)
                out[at - first : at - first + len(found)] = found
        return out

    def _values(self, data: bytes) -> NDArray[np.float64]:
        if (self.encoding, self.bits) == (_PCM, 24):
            low, middle, high = (np.frombuffer(data, "u1").reshape(-1, 3)[:, at].astype(np.int32) for at in range(3))
            return (((low << 8) | (middle << 16) | (high << 24)) >> 8) / 2.0**23
        values = np.frombuffer(data, _DTYPES[self.encoding, self.bits]).astype(np.float64)
        if self.encoding == _FLOAT:
            return values
        return (values - 128) / 128 if self.bits == 8 else values / 2.0 ** (self.bits - 1)


def open_wav(path: Path) -> Wav:
    """A WAV file's header. Raises BadInput for what is none, or is compressed."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
            wav = head[:4] == b"RIFF" and head[8:12] == b"WAVE"
            need(wav, f"{path} is no WAV file; `ffmpeg -i {path.name} {path.stem}.wav` makes one", BadInput)
            chunks = dict[bytes, tuple[int, bytes]]()
            size = path.stat().st_size
            while b"data" not in chunks and file.tell() + 8 <= size:
                name, num_bytes = struct.unpack("<4sI", file.read(8))
                chunks[name] = (file.tell(), file.read(min(num_bytes, 64)) if name != b"data" else b"")
                at = chunks[name][0]
                if name == b"data":
                    length = min(num_bytes, size - at)
                file.seek(at + num_bytes + num_bytes % 2)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    need(b"fmt " in chunks and b"data" in chunks and len(chunks[b"fmt "][1]) >= 16, f"{path} holds no sound", BadInput)
    about = chunks[b"fmt "][1]
    encoding, channels, rate, _, _, bits = struct.unpack("<HHIIHH", about[:16])
    if encoding == _EXTENSIBLE and len(about) >= 26:
        (encoding,) = struct.unpack("<H", about[24:26])
    known = (encoding, bits) in _DTYPES or (encoding, bits) == (_PCM, 24)
    need(known, f"{path} is compressed, or has samples of {bits} bits; plain WAV files are read", BadInput)
    need(0 < channels <= 64 and 0 < rate <= _MOST_RATE, f"{path}: {channels} channels at {rate} a second", BadInput)
    return Wav(path, encoding, bits, channels, rate, chunks[b"data"][0], length // (channels * bits // 8))


def windows(wav: Wav, seconds: int, least_s: float = 0.1) -> Iterator[tuple[float, Floats]]:
    """A file in pieces of so many seconds, at `RATE`, each with its start; the last is filled up with silence.

    What is left at the end is left out where it is shorter than `least_s`.
    """
    for at in range(num_windows(wav, seconds, least_s)):
        yield float(at * seconds), resampled(wav, at * seconds * RATE, seconds * RATE)


def num_windows(wav: Wav, seconds: int, least_s: float = 0.1) -> int:
    """How many pieces `windows` gives."""
    return max(1, ceil((wav.seconds - least_s) / seconds))


def resampled(wav: Wav, first: int, count: int) -> Floats:
    """Samples [first, first + count) at `RATE`: each the sum of its neighbours under a windowed sinc."""
    if wav.rate == RATE:
        return wav.samples(first, count)
    common = gcd(wav.rate, RATE)
    up, down = RATE // common, wav.rate // common
    reach = ceil(_TAPS * max(1.0, down / up)) + 1
    begin = first * down // up - reach
    source = wav.samples(begin, count * down // up + 2 * reach + 2)
    out = np.empty(count, np.float32)
    offsets = np.arange(-reach, reach + 1)
    for phase in range(min(up, count)):
        at = (first + np.arange(phase, count, up)) * down
        whole, part = at // up - begin, (at[0] % up) / up
        near, taps = np.lib.stride_tricks.sliding_window_view(source, 2 * reach + 1), _filter(offsets - part, up, down)
        made = [near[whole[i : i + _AT_ONCE] - reach] @ taps for i in range(0, len(whole), _AT_ONCE)]
        out[phase::up] = np.concatenate(made)
    return out


def _filter(distances: NDArray[np.float64], up: int, down: int) -> Floats:
    """Weights of samples so far away: what is below half of both rates passes."""
    cutoff = min(1.0, up / down)
    inside = np.clip(1 - (distances * cutoff / _TAPS) ** 2, 0, None)
    taps = cutoff * np.sinc(distances * cutoff) * np.i0(8.0 * np.sqrt(inside)) / np.i0(8.0)
    return np.where(inside > 0, taps, 0.0).astype(np.float32)


def log_mel(samples: Floats, num_mels: int) -> Floats:
    """[samples] -> [num_mels, samples / HOP], as Whisper's authors have it: powers of ten, the loudest 8 of them, moved
    and scaled into about -1 to 1. Radford et al. 2022, arXiv:2212.04356."""
    padded = np.pad(samples.astype(np.float64), FRAME // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[: len(samples) // HOP * HOP : HOP]
    powers = np.abs(np.fft.rfft(frames * np.hanning(FRAME + 1)[:-1])) ** 2
    found = np.log10(np.maximum(mel_filters(num_mels) @ powers.T, LEAST))
    scaled: Floats = ((np.maximum(found, found.max() - RANGE) + 4.0) / 4.0).astype(np.float32)
    return scaled


@cache
def mel_filters(num_mels: int) -> NDArray[np.float64]:
    """[num_mels, FRAME / 2 + 1]: triangles of equal area over bands that are equally wide on Slaney's mel scale."""
    step = np.log(6.4) / 27
    top = 3 * _LINEAR_BELOW / 200 + np.log(RATE / 2 / _LINEAR_BELOW) / step
    mels = np.linspace(0.0, top, num_mels + 2)
    edge = 3 * _LINEAR_BELOW / 200
    corners = np.where(mels < edge, mels * 200 / 3, _LINEAR_BELOW * np.exp(step * (mels - edge)))
    frequencies = np.linspace(0.0, RATE / 2, FRAME // 2 + 1)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left))
