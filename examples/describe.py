"""Describe: what a model is, from its headers alone."""

from smollm2 import model

import pintpot
from pintpot.units import format_bytes

found = pintpot.describe(model())
print(f"{found.name}: a {found.kind} of {found.num_values:,} values in {format_bytes(found.num_bytes)}")
for part in found.parts:
    formats = sorted({weight.dtype for weight in part.weights()})
    print(f"  {part.name}: family {part.family}, {len(part.blocks)} blocks, formats {', '.join(formats)}")
print(f"  context {found.context:,} tokens, {found.tokenizer.vocab_size:,} words")
