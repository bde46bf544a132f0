"""Run: words as they come, and at the end what was promised and what was measured."""

from smollm2 import model

import pintpot

# The first time the model is planned and packed; the same question finds its pack again.
with pintpot.run(model(), memory="300MB", context=256) as session:
    greedy = pintpot.Sampling(temperature=0)
    for piece in session.chat("Why is the sky blue?", sampling=greedy, max_tokens=48):
        print(piece, end="", flush=True)
    print(f"\n\n{session.summary()}")
