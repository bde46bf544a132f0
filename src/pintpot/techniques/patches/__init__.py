"""Images computed in parts."""
