"""WORK: programs of ops over named buffers, what each op asks of a machine, and where every buffer lies."""
