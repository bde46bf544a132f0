"""What of a model learns."""
