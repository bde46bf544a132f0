"""Rows of weights as they lie in their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import FAMILIES, Tiny, hf_weights, write_hf

from pintpot.errors import BadFile, BadInput, UsageError
from pintpot.model.names import canonical_hf
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store


def _weights(model: Model) -> dict[str, Any]:
    return {weight.name: weight for weight in model.part("language").weights()}


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_store_gives_rows_of_every_shard(tmp_path: Path, dtype: str) -> None:
    tiny = FAMILIES[0]
    model = describe(str(write_hf(tmp_path / "m", tiny, dtype=dtype, shards=2)))
    with Store(model) as store:
        for name, value in hf_weights(tiny).items():
            found = _weights(model)[canonical_hf(name) or ""]
            rows = store.read(found)
            if dtype == "bf16":
                wide = rows.view(np.uint16).astype(np.uint32) << 16
                assert np.allclose(wide.view(np.float32), value, rtol=2**-8)
                continue
            read = rows.view({"f32": np.float32, "f16": np.float16}[dtype])
            assert np.array_equal(read.reshape(value.shape), value)
            if value.ndim == 2:
                assert np.array_equal(store.read(found, 3, 5), rows[3:8])
        assert store.read("embed", 0, 0).shape == (0, _weights(model)["embed"].num_bytes // tiny.vocab)
        for first, count in ((0, tiny.vocab + 1), (-1, 1), (tiny.vocab, 1), (0, -1)):
            with pytest.raises(UsageError, match="rows 0 to 383"):
                store.read("embed", first, count)


def test_store_reports_a_file_that_shrank_or_went_away(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "m")
    store = Store(describe(str(folder)))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    last = max(_weights(store.model).values(), key=lambda weight: weight.offset)
    with pytest.raises(BadFile, match=f"ends inside {last.name}"):
        store.read(last)
    store.close()
    file.unlink()
    with pytest.raises(BadInput, match="cannot open"):
        store.read("embed")


def test_sample_digest_tells_trainings_apart(tmp_path: Path) -> None:
    one, two = (describe(str(write_hf(tmp_path / str(seed), Tiny(seed=seed)))) for seed in (1, 2))
    assert one.digest == two.digest
    assert Store(one).sample_digest() != Store(two).sample_digest()
    assert Store(one).sample_digest() == Store(describe(one.source.path)).sample_digest()
