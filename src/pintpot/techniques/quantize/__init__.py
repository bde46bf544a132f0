"""Fewer bits for weights and activations."""
