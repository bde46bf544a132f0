"""Prices every way to run a model on a machine, jointly, and picks the best that keeps the budget."""
