"""Smaller key-value caches."""
