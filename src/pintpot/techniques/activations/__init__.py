"""What is in memory between two ops."""
