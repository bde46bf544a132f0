"""The exact choice of a format for each weight, by HiGHS: a binary for each format of each weight.

Huangfu and Hall 2018, doi:10.1007/s12532-017-0130-5. `highspy` comes with the extra `calibrate`.
"""

from __future__ import annotations

from itertools import accumulate

import highspy
import numpy as np

from pintpot.planner.bits import GAP, MOST_NODES, Allocation, Choices, CostName, Kept, Limits, keeps, undominated

_FEASIBLE = 1e-10
"""Of a limit, what the solver may overstep."""


def solve(choices: Choices, minimise: CostName, limits: Limits, start: Allocation | None = None) -> Allocation | None:
    """The choice of least cost within the limits, None where there is none; `start` is one to begin from."""
    bounded = limits.set
    names = list(choices)
    useful = [undominated(choices[name], (minimise, *bounded)) for name in names]
    columns = [one for found in useful for one in found]
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (
        ("output_flag", False), ("threads", 1), ("random_seed", 0), ("mip_rel_gap", GAP), ("mip_abs_gap", 0.0),
        ("mip_max_nodes", MOST_NODES), ("mip_feasibility_tolerance", _FEASIBLE),
        ("primal_feasibility_tolerance", _FEASIBLE),
    ):  # fmt: skip
        solver.setOptionValue(option, value)
    solver.passModel(_model(useful, columns, minimise, bounded))
    if start is not None:
        begun = highspy.HighsSolution()
        begun.col_value = [
            float(start.kept[name] == one) for name, found in zip(names, useful, strict=True) for one in found
        ]
        solver.setSolution(begun)
    solver.run()
    values = solver.getSolution().col_value
    if len(values) != len(columns) or not solver.getSolution().value_valid:
        return None
    firsts = [0, *accumulate(map(len, useful))]
    kept = {
        name: found[int(np.argmax(values[first : first + len(found)]))]
        for name, found, first in zip(names, useful, firsts, strict=False)
    }
    allocation = Allocation(kept, solver.getModelStatus() == highspy.HighsModelStatus.kOptimal)
    return allocation if keeps({name: allocation.total(name) for name in bounded}, bounded) else None


def _model(
    useful: list[list[Kept]], columns: list[Kept], minimise: CostName, bounded: dict[CostName, float]
) -> highspy.HighsLp:
    """Rows: one choice for each weight, then the limits; every limited cost in parts of its limit."""
    count = len(columns)
    costs = np.array([getattr(one, minimise) for one in columns])
    scale = float(np.abs(costs).sum()) / max(len(useful), 1) or 1.0
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = count, len(useful) + len(bounded)
    model.col_cost_ = costs / scale
    model.col_lower_, model.col_upper_ = np.zeros(count), np.ones(count)
    model.integrality_ = [highspy.HighsVarType.kInteger] * count
    ones = np.ones(len(useful))
    limited = [(np.array([getattr(one, name) for one in columns]), limit) for name, limit in bounded.items()]
    rows = [values / limit if limit > 0 else values for values, limit in limited]
    most = [1.0 if limit > 0 else 0.0 for _, limit in limited]
    model.row_lower_ = np.concatenate([ones, np.full(len(rows), -highspy.kHighsInf)])
    model.row_upper_ = np.concatenate([ones, np.array(most)])
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    starts = [0, *accumulate([*map(len, useful), *(count for _ in rows)])]
    model.a_matrix_.start_ = np.array(starts, np.int32)
    model.a_matrix_.index_ = np.concatenate([np.arange(count)] * (1 + len(rows))).astype(np.int32)
    model.a_matrix_.value_ = np.concatenate([np.ones(count), *rows])
    return model
