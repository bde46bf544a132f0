"""Plan: the fastest way to run a model inside a budget, and why the others lost."""

from smollm2 import model

import pintpot
from pintpot.units import format_bytes

plan = pintpot.plan(model(), memory="300MB", context=256)
decode = plan.cost.stage("decode")
print(f"{plan.model_name}: at most {format_bytes(plan.cost.memory_high)} of {format_bytes(plan.budget.memory_bytes)}")
print(f"  {decode.tokens_per_s.low:.0f} to {decode.tokens_per_s.high:.0f} tokens a second; {decode.binds} binds")
for step in plan.steps:
    print(f"  + {step}")
for lost in plan.rejected[:3]:
    print(f"  - {lost.what}: {lost.reason}")
print(f"  the smallest budget is {format_bytes(plan.smallest_bytes)}")
