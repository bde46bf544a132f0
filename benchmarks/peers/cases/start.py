"""From a cold process to the first word: libraries in the page cache, the model's files not."""

from __future__ import annotations

from starting import Starting

ORDER = 3

CASES = (
    Starting("start, SmolLM2", "smollm2", rounds=9, most_s=0.4, quick=True),
    Starting("start, 8B", "8b q4_0", rounds=3, beyond_disk_s=0.5),
)
