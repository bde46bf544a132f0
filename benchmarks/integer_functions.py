"""Softmax and GELU in integers (I-ViT) beside the same in floats, on one thread, both compiled for this processor.

    python benchmarks/integer_functions.py [--rows 1182] [--width 197] [--rounds 30]

Both are plain loops that a C++ compiler makes vectors of; the float ones use a polynomial for the exponential, and
integers come and go in 8 or 16 bits, which spares them memory that floats need; "between floats" they do not, which is
what a module has whose products are floats. PyTorch's own are beside them, and a table of GELU's 256 values. Every
answer is checked before any is timed: integers bit for bit, floats against float64. Ways take turns; medians of
nanoseconds a value are printed, and how much longer integers take. Seconds on one core; needs a C++ compiler.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench import Record, parser
from numpy.typing import NDArray

SOURCE = r"""
#include <algorithm>
#include <cmath>
#include <cstdint>
#define EACH for (int64_t i = 0; i < n; ++i)
static inline float power(float x) {  // e^x for x <= 0, relative error under 1e-6
    float t = std::max(x * 1.44269504f, -126.0f), whole = std::floor(t), f = t - whole;
    float p = 1.0f + f * (0.693147182f + f * (0.240226463f + f * (0.0555041f + f * (0.00961814f + f * 0.00133336f))));
    p += f * f * f * f * f * f * 0.000154f;
    return p * __builtin_bit_cast(float, (int32_t(whole) + 127) << 23);
}
// Of x from -shifts * one to 0, in whole steps. A step of the quotient by a product with a rounded reciprocal.
static inline int32_t shifted(int32_t x, int32_t one, float over, int32_t shifts) {
    int32_t t = std::max(x + (x >> 1) - (x >> 4), -shifts * one);
    int32_t q = int32_t(float(-t) * over);
    q += (q + 1) * one <= -t;
    q -= q * one > -t;
    int32_t rest = t + q * one;
    return ((rest >> 1) + one) << (shifts - q);
}
extern "C" void float_softmax(const float* __restrict x, float* __restrict y, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
        float top = x[0], sum = 0;
        EACH top = x[i] > top ? x[i] : top;
        EACH y[i] = power(x[i] - top);
        EACH sum += y[i];
        float over = 1.0f / sum;
        EACH y[i] *= over;
    }
}
extern "C" void integer_softmax(const int8_t* __restrict x, int8_t* __restrict y, int32_t* __restrict room,
                                int64_t rows, int64_t n, int32_t one) {
    float inverse = 1.0f / float(one);
    for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
        int32_t top = x[0];
        int64_t sum = 0;
        EACH top = std::max(top, int32_t(x[i]));
        EACH room[i] = shifted(x[i] - top, one, inverse, 15);
        EACH sum += room[i];
        int32_t over = int32_t(2147483647LL / std::min<int64_t>(sum, 2147483647LL));
        EACH y[i] = int8_t((room[i] * over) >> 24);
    }
}
extern "C" void converted_softmax(const float* __restrict x, float* __restrict y, int32_t* __restrict room,
                                  int64_t rows, int64_t n, int32_t one, float steps) {  // steps: how many of them are 1
    float inverse = 1.0f / float(one);
    for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
        int32_t top = -128;
        int64_t sum = 0;
        EACH room[i] = int32_t(std::nearbyint(x[i] * steps));
        EACH top = std::max(top, room[i]);
        EACH room[i] = shifted(room[i] - top, one, inverse, 15);
        EACH sum += room[i];
        int32_t over = int32_t(2147483647LL / std::min<int64_t>(sum, 2147483647LL));
        EACH y[i] = float((room[i] * over) >> 24) * 0.0078125f;
    }
}
// x times the logistic function of 1.702 x.
extern "C" void float_gelu(const float* __restrict x, float* __restrict y, int64_t n) {
    EACH {
        float t = 1.702f * x[i], small = power(-std::fabs(t)), part = (t < 0 ? small : 1.0f) / (1.0f + small);
        y[i] = x[i] * part;
    }
}
extern "C" void integer_gelu(const int8_t* __restrict x, int16_t* __restrict y, int64_t n, int32_t one) {
    float inverse = 1.0f / float(one);
    EACH {
        int32_t v = x[i], wide = v + (v >> 1) + (v >> 3) + (v >> 4), top = std::max(wide, 0);
        int32_t grown = shifted(wide - top, one, inverse, 23) >> 1;
        int32_t beside = shifted(-top, one, inverse, 23) >> 1;
        int32_t share = (grown * int32_t(2147483647.0 / double(std::max(grown + beside, 1)))) >> 24;
        y[i] = int16_t(v * share);
    }
}
"""
Ints = NDArray[np.int64]


def library(folder: Path) -> ctypes.CDLL:
    """The loops, compiled for this processor."""
    (folder / "loops.cpp").write_text(SOURCE)
    flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-shared", "-fPIC"]
    subprocess.run(["c++", *flags, "-o", str(folder / "loops.so"), str(folder / "loops.cpp")], check=True)
    return ctypes.CDLL(str(folder / "loops.so"))


def exponential(x: Ints, one: int, shifts: int) -> Ints:
    scaled = np.maximum(x + (x >> 1) - (x >> 4), -shifts * one)
    halvings = scaled // -one
    return (((scaled + halvings * one) >> 1) + one) << (shifts - halvings)


def softmax_of(x: Ints, one: int) -> Ints:
    grown = exponential(x - x.max(-1, keepdims=True), one, 15)
    return (grown * ((2**31 - 1) // np.minimum(grown.sum(-1, keepdims=True), 2**31 - 1))) >> 24


def gelu_of(x: Ints, one: int) -> Ints:
    wide = x + (x >> 1) + (x >> 3) + (x >> 4)
    top = np.maximum(wide, 0)
    grown, beside = exponential(wide - top, one, 23) >> 1, exponential(-top, one, 23) >> 1
    return x * ((grown * ((2**31 - 1) // np.maximum(grown + beside, 1))) >> 24)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=6 * 197)
    options.add_argument("--width", type=int, default=197)
    options.add_argument("--rounds", type=int, default=30)
    asked = options.parse_args()
    torch.set_num_threads(1)
    record = Record("integer_functions")
    rows, width = asked.rows, asked.width
    rng = np.random.default_rng(1)
    floats = (rng.standard_normal((rows, width)) * 2).astype(np.float32)
    scale = np.abs(floats).max() / 127
    whole = np.round(floats / scale).astype(np.int8)
    one = max(1, int(1 / scale))
    given, between = np.empty_like(floats), np.empty_like(floats)
    small, wide = np.empty(whole.shape, np.int8), np.empty(whole.shape, np.int16)
    room, tensor = np.empty(width, np.int32), torch.from_numpy(floats)
    size, long = ctypes.c_int64, (ctypes.c_int64(rows), ctypes.c_int64(width))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        loops = library(Path(folder))

        def at(array: NDArray[np.generic]) -> ctypes.c_void_p:
            return ctypes.c_void_p(array.ctypes.data)

        ways: dict[str, dict[str, Callable[[], object]]] = {
            "softmax": {
                "integers": lambda: loops.integer_softmax(at(whole), at(small), at(room), *long, ctypes.c_int32(one)),
                "integers between floats": lambda: loops.converted_softmax(
                    at(floats), at(between), at(room), *long, ctypes.c_int32(one), ctypes.c_float(1 / scale)
                ),
                "floats": lambda: loops.float_softmax(at(floats), at(given), *long),
                "PyTorch": lambda: torch.softmax(tensor, -1),
            },
            "GELU": {
                "integers": lambda: loops.integer_gelu(at(whole), at(wide), size(whole.size), ctypes.c_int32(one)),
                "a table": lambda: np.take(table, whole.view(np.uint8), out=wide),
                "floats": lambda: loops.float_gelu(at(floats), at(given), size(floats.size)),
                "PyTorch": lambda: torch.nn.functional.gelu(tensor, approximate="tanh"),
            },
        }
        codes = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64)
        table = gelu_of(codes, one).astype(np.int16)
        exact = floats.astype(np.float64)
        grown = np.exp(exact - exact.max(-1, keepdims=True))
        truths = {"softmax": grown / grown.sum(-1, keepdims=True), "GELU": exact / (1 + np.exp(-1.702 * exact))}
        results = {
            "softmax": (small, softmax_of(whole.astype(np.int64), one)),
            "GELU": (wide, gelu_of(whole.astype(np.int64), one)),
        }
        for name, kinds in ways.items():
            for run in kinds.values():
                run()
            own, due = results[name]
            equal = bool(np.array_equal(own.astype(np.int64), due))
            far = float(np.abs(given - truths[name]).max())
            if not equal or far > 1e-5:
                raise SystemExit(f"{name}: integers equal: {equal}; floats off by {far:.2g}")
            taken: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(asked.rounds):
                for kind, run in kinds.items():
                    started = time.perf_counter()
                    run()
                    taken[kind].append(1e9 * (time.perf_counter() - started) / floats.size)
            middle = {kind: statistics.median(values) for kind, values in taken.items()}
            record.keep(name, {"ns_per_value": middle, "integers_over_floats": middle["integers"] / middle["floats"]})
            each = ", ".join(f"{kind} {value:.3f} ns" for kind, value in middle.items())
            record.say(f"{name}: {each} a value; integers take {middle['integers'] / middle['floats']:.2f} of floats")
    raise SystemExit(record.finish())


if __name__ == "__main__":
    main()
