"""Calibrate: what each weight of a model costs in quality in each format, measured once for every later plan."""

from smollm2 import model

import pintpot

found = pintpot.calibrate(model(), progress=lambda done, what: None)
print(f"{len(found.weights)} weights measured over {found.tokens} tokens")
for name, formats in list(found.weights.items())[:3]:
    low, high = formats["sym4"]
    print(f"{name} in sym4: {low:.2g} to {high:.2g} nats a token")
