"""Which weights a target names, and the roles that names of weights tell."""

from __future__ import annotations

VOCABULARY_ROLES = ("embed", "head")
LOOKED_UP, SHARED = "embed", "shared"
"""Roles of a module's matrices: a table that rows are looked up in and nothing else, and what a pass multiplies with
several times."""
FIXED_ROLES = frozenset({"router"})
"""Matrices that stay as their file has them: rounded, they would choose other experts, and they are small."""


def matches(target: str, name: str) -> bool:
    """Whether a target ("all", "blocks", "vocabulary", or a weight's name) names this weight."""
    if target == name:
        return True
    role = name.rpartition(".")[2]
    if target == "all" or role in FIXED_ROLES:
        return role not in FIXED_ROLES
    of_words = role in VOCABULARY_ROLES
    return (target == "vocabulary") == of_words if target in ("vocabulary", "blocks") else False


def overlap(one: str, other: str) -> bool:
    """Whether two targets can name the same weight."""
    if one == other or "all" in (one, other):
        return True
    groups = ("vocabulary", "blocks")
    if one in groups and other in groups:
        return False
    return matches(one, other) if one in groups else matches(other, one)
