"""Rotary positions of several numbers: time, height and width, each of which turns some columns of a head.

Multimodal rotary positions: Qwen2-VL (Wang et al. 2024, arXiv:2409.12191). A word has the same number three times, so
that without images nothing differs from plain positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pintpot.errors import BadFile, need
from pintpot.model.fields import integer

_SECTIONS: Final[dict[str, tuple[tuple[int, int, int], bool]]] = {
    "qwen2_vl": ((16, 24, 24), False), "qwen2_vl_text": ((16, 24, 24), False),
    "qwen2_5_vl": ((16, 24, 24), False), "qwen2_5_vl_text": ((16, 24, 24), False),
    "qwen3_vl": ((24, 20, 20), True), "qwen3_vl_text": ((24, 20, 20), True),
}  # fmt: skip
"""Pairs of columns that turn by time, height and width where nobody says, and whether the three take turns."""
_DEEPENED: Final = {"qwen3_vl": [8, 16, 24]}
"""Model types whose images meet several layers, and the layers of their encoder that give, where nobody says."""


def section_settings(model_type: str, config: Mapping[str, Any], head_dim: int, where: str) -> dict[str, Any]:
    """mrope_section and mrope_interleaved of these model types; nothing where a position is one number.

    Raises BadFile for sections that are not three numbers or have more pairs than a head.
    """
    if model_type not in _SECTIONS:
        return {}
    usual, interleaved = _SECTIONS[model_type]
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    sections = given.get("mrope_section", list(usual))
    three = isinstance(sections, list) and len(sections) == 3
    need(three, f"{where}: mrope_section {sections!r:.60}; three numbers are needed", BadFile)
    counts = [integer({"mrope_section": one}, "mrope_section", where, least=0) for one in sections]
    pairs = head_dim // 2
    fits = max(counts[1:]) * 3 <= pairs + 2 if interleaved else sum(counts) == pairs
    need(fits, f"{where}: mrope_section {counts} does not divide the {pairs} pairs of a head", BadFile)
    return {"mrope_section": counts, "mrope_interleaved": interleaved}


def given_layers(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The layers of a vision-language model's language half that rows of images are added after; often nothing."""
    vision = raw.get("vision_config")
    if not isinstance(vision, Mapping) or raw.get("model_type") not in _DEEPENED:
        return {}
    taken = vision.get("deepstack_visual_indexes", _DEEPENED[raw["model_type"]])
    need(isinstance(taken, list), f"{where}: deepstack_visual_indexes {taken!r:.60}; a list is needed", BadFile)
    return {"given_layers": len(taken)}


def axes_of(config: Mapping[str, Any], pairs: int) -> list[int]:
    """Which number of a position (0 time, 1 height, 2 width) turns each pair of columns."""
    counts: list[int] = config["mrope_section"]
    if not config["mrope_interleaved"]:
        return [axis for axis, count in enumerate(counts) for _ in range(count)]
    return [axis if (axis := index % 3) > 0 and index < 3 * counts[axis] else 0 for index in range(pairs)]
