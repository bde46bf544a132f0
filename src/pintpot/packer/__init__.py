"""Turns a plan into a folder: weights in their promised form, laid out for large reads, whole or not at all."""
