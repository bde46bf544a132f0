"""How gradients are computed, what is kept for them, and what becomes of them."""
