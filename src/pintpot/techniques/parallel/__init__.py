"""How several processes share what one would hold."""
