"""Weights of which some are zero."""
