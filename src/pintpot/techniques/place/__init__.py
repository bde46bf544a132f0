"""Where weights rest, and how they come when they are needed."""
