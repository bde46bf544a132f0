"""DeepSpeed from its sources, with the operations that ZeRO-Infinity takes on a CPU, below `out/`, once.

Left to itself it compiles them when they are first used, each file apart; nearly all of the time goes into PyTorch's
headers. Here every operation is one translation unit (names that two of its files share are told apart): a minute each.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from bench import OUT, whisper

from pintpot.errors import UsageError, need

VERSION = "0.19.8"
_HELPERS = ("hjson", "msgpack", "psutil", "py-cpuinfo", "einops")
_PYTHON, _COMMON = "csrc/aio/py_lib/deepspeed_", "csrc/aio/common/deepspeed_aio_"
_WIDE = ("-march=native", "-D__AVX512__" if "avx512f" in Path("/proc/cpuinfo").read_text() else "-D__AVX256__")
_OPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ops/pin_memory/pin_memory": (
        ("csrc/pin_memory/page_alloc", "csrc/pin_memory/deepspeed_pin_tensor", "csrc/pin_memory/py_ds_pin_memory"),
        ("-O1",),
    ),
    "ops/aio/async_io": (
        (
            *(f"{_PYTHON}{one}" for one in ("py_io_handle", "py_aio", "py_aio_handle", "aio_thread")),
            *(f"{_COMMON}{one}" for one in ("utils", "common", "types")),
            *(f"{_PYTHON}{one}" for one in ("cpu_op", "aio_op_desc", "py_copy", "pin_tensor_client")),
            "csrc/aio/py_lib/py_ds_aio",
        ),
        ("-O1", *_WIDE, "-laio"),
    ),
    "ops/adam/cpu_adam": (
        ("csrc/adam/cpu_adam", "csrc/adam/cpu_adam_impl"),
        ("-O3", *_WIDE),
    ),
    "ops/comm/deepspeed_shm_comm": (("csrc/cpu/comm/shm_interface", "csrc/cpu/comm/shm"), ("-O2",)),
}
_HEADERS = ("csrc/aio/py_lib", "csrc/aio/common", "csrc/pin_memory", "csrc/includes", "csrc/cpu/includes")
_SHARED = ("c_library_name", "c_block_size", "c_io_queue_depth", "world_size", "world_rank", "is_initialized")
_INSTALLED = f"""
version, git_hash, git_branch, accelerator_name = "{VERSION}", "[none]", "[none]", "cpu"
installed_ops = dict.fromkeys(("async_io", "pin_memory", "cpu_adam", "deepspeed_shm_comm"), True)
torch_info = dict.fromkeys(("cuda_version", "nccl_version", "hip_version"), "0.0")
torch_info |= {{"version": "TORCH", "bf16_support": True}}
"""


def made(sources: Path | None) -> list[Path]:
    """The folders for PYTHONPATH. Raises UsageError where DeepSpeed is not here and no sources are given."""
    folder, beside = OUT / f"deepspeed-{VERSION}", OUT / "deepspeed-helpers"
    done = folder / "all-made"
    if not done.exists():
        need(sources is not None, "DeepSpeed is not here; name its sources: --sources FILE", UsageError)
        if sources is not None:
            shutil.unpack_archive(sources, folder.parent, filter="data")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps", "--target"]
        subprocess.run([*pip, str(beside), *_HELPERS], check=True)
        _prepare(folder)
        for name in _OPS:
            _compile(folder, name)
        done.touch()
    return [beside, folder]


def _prepare(folder: Path) -> None:
    """Say which operations are there, and let every header be read once."""
    import torch

    version = ".".join(torch.__version__.split(".")[:2])
    (folder / "deepspeed" / "git_version_info_installed.py").write_text(_INSTALLED.replace("TORCH", version))
    for name in _HEADERS[:3]:
        for header in (folder / name).glob("*.h"):
            header.write_text("#pragma once\n" + header.read_text())


def _compile(folder: Path, name: str) -> None:
    """One operation, from all its files at once."""
    from torch.utils.cpp_extension import include_paths, library_paths

    files, flags = _OPS[name]
    whisper(f"compiling {name} ...")
    target = folder / "deepspeed" / f"{name}_op.so"
    target.parent.mkdir(exist_ok=True)
    (target.parent / "__init__.py").touch()
    unit = target.with_suffix(".cpp")
    lines: list[str] = []
    for number, file in enumerate(files):
        lines += [f"#define {one} {one}_{number}" for one in _SHARED]
        lines += [f'#include "{folder / file}.cpp"', *(f"#undef {one}" for one in _SHARED)]
    unit.write_text("\n".join(lines) + "\n")
    headers = [*(f"-I{folder / one}" for one in _HEADERS), *(f"-isystem{one}" for one in include_paths())]
    headers.append(f"-isystem{sysconfig.get_paths()['include']}")
    defined = [f"-DTORCH_EXTENSION_NAME={target.stem}", "-DTORCH_API_INCLUDE_EXTENSION_H", "-w", "-fPIC", "-fopenmp"]
    linked = [*(f"-L{one}" for one in library_paths()), "-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"]
    command = ["g++", "-std=c++20", "-shared", *defined, *headers, str(unit), "-o", str(target), *linked, *flags]
    subprocess.run(["nice", *command], check=True)
