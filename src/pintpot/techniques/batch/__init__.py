"""How tokens are put together."""
