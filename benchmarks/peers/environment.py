"""The peers' own environment, below `out/`: set up once, and again only where the list below has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench import OUT, ROOT, whisper

FOLDER = OUT / "peers-venv"
PYTHON = FOLDER / "bin" / "python"
_TORCH = "torch==2.13.0"
_WHEELS = (
    "xllamacpp==2026.10.11549", "openvino==2026.4.1", "openvino-genai==2026.4.1.0", "accelerate==1.15.0",
    "transformers==5.23.0", "numpy==2.4.6", "safetensors==0.8.0", "sentencepiece==0.2.3", "tokenizers==0.23.3",
)  # fmt: skip
_ALONE = ("airllm==4.0.0", "diskcache==5.6.3", "peft==0.21.2", "bitsandbytes==0.50.2")
"""Installed without what they ask for: all that is used of them is in the list above."""
_NATIVE = "llama-cpp-python==0.3.36"
_BUILD = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"
_SOURCES = OUT / "native" / _NATIVE.replace("-", "_").replace("==", "-")
_TOOLS = OUT / "native" / "llama-tools"
_TOOL_NAMES = ("llama-quantize", "llama-imatrix")
_TOOL_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_OPENSSL=OFF",
)  # fmt: skip


def set_up(native: bool) -> None:
    """Install what is missing. The native llama.cpp takes some minutes of compiling, once."""
    _once("wheels", (_TORCH, *_WHEELS, *_ALONE), _install_wheels)
    if native:
        _once("native", (_NATIVE, _BUILD), _build_native)


def tools() -> Path:
    """The folder of llama.cpp's own quantizer and of what gathers importance for it, compiled here once."""
    _once("wheels", (_TORCH, *_WHEELS, *_ALONE), _install_wheels)
    _once("tools", (_NATIVE, *_TOOL_FLAGS), _build_tools)
    return _TOOLS / "bin"


def has_native() -> bool:
    """Whether llama.cpp was compiled here."""
    return _mark("native").exists()


def environment() -> dict[str, str]:
    """Variables of the peers' processes: no libraries of this project, no question to any hub."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OPENVINO_TELEMETRY_DISABLED": "1"}


def _mark(name: str) -> Path:
    return FOLDER / f"{name}-installed"


def _once(name: str, wanted: tuple[str, ...], install: Callable[[], None]) -> None:
    text = "\n".join(wanted)
    mark = _mark(name)
    if mark.exists() and mark.read_text() == text:
        return
    whisper(f"peers: installing {name} into {FOLDER} ...")
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    install()
    mark.write_text(text)


def _pip(*arguments: str, **variables: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-qq", "install", *arguments]
    # From a folder of its own: pip would take a folder named like a package for that package.
    subprocess.run(command, check=True, cwd=FOLDER, env=os.environ | variables)


def _install_wheels() -> None:
    _pip(_TORCH)
    _pip("--constraint", str(ROOT / "constraints.txt"), "--only-binary", ":all:", *_WHEELS)
    _pip("--no-deps", "--only-binary", ":all:", *_ALONE)


def _build_tools() -> None:
    """From the sources that come with `llama-cpp-python`, a quarter of an hour on 2 cores."""
    if not _SOURCES.exists():
        _SOURCES.parent.mkdir(parents=True, exist_ok=True)
        pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-qq", "download", "--no-deps"]
        into = ["-d", str(_SOURCES.parent), "--no-binary", "llama-cpp-python", _NATIVE]
        subprocess.run([*pip, *into], check=True, cwd=FOLDER)
        shutil.unpack_archive(_SOURCES.with_name(_SOURCES.name + ".tar.gz"), _SOURCES.parent, filter="data")
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        _pip("cmake", "ninja")
    path = {"PATH": os.pathsep.join([os.environ["PATH"], str(PYTHON.parent)])}
    start = ["cmake", "-S", str(_SOURCES / "vendor" / "llama.cpp"), "-B", str(_TOOLS), "-G", "Ninja", *_TOOL_FLAGS]
    for command in (start, ["cmake", "--build", str(_TOOLS), "--target", *_TOOL_NAMES]):
        subprocess.run(["nice", *command], check=True, env=os.environ | path, stdout=subprocess.DEVNULL)


def _build_native() -> None:
    _pip("--no-deps", "--no-binary", "llama-cpp-python", _NATIVE, CMAKE_ARGS=_BUILD)
