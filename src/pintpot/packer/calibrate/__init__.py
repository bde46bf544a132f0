"""What is learned from text before weights are rounded: the float network block by block, and what its weights meet."""
