"""Pintpot beside its peers: one run, all of them in turn, each in the best of its documented configurations.

    python benchmarks/peers [--quick] [--only TEXT] [--beside PEER] [--without-native] [--fresh]

Peers live in an environment of their own below out/, set up by the first start; llama.cpp is also compiled there, once.
What is measured lies in cases/, who takes part in contenders/; answers are checked before anything is timed, sampling
and making text are inside the timing. Beside every sample stand the rate of plain reads, the cost of a barrier, and the
share of the processor that others took: above 3% it is repeated, and where the machine is never quiet it is marked.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from bench import OUT, Record, parser, probed_machine
from cases import cases
from contenders import CHOSEN
from environment import set_up
from plot import draw


def main() -> int:
    """Parse the command line, measure, show."""
    options = parser(__doc__)
    options.add_argument(
        "--quick",
        action="store_true",
        help="two models, the configurations that were ever near the best, few rounds: under ten minutes",
    )
    options.add_argument("--only", default="", help="cases with this text in their name")
    options.add_argument("--beside", default="", help="peers with this text in their name, and no others")
    options.add_argument("--without-native", action="store_true", help="do not compile llama.cpp")
    asked = options.parse_args()
    set_up(native=not asked.without_native)
    probed_machine()
    record = Record("peers-quick" if asked.quick else "peers", fresh=asked.fresh)
    CHOSEN.beside = asked.beside
    beside = f" beside {asked.beside}" if asked.beside else ""
    chosen = [case for case in cases() if asked.only in case.name and (case.quick or not asked.quick)]
    found = {case.name: record.case(f"{case.name}{beside}", partial(case.measure, asked.quick)) for case in chosen}
    for case in chosen:
        case.show(record, found[case.name])
    picture = draw(found, OUT / f"{record.log_path.stem}.svg")
    record.say(f"\nplot {picture.relative_to(OUT)}" if picture is not None else "")
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
