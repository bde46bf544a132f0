"""Bytes between disk and memory, past the page cache: arenas, whole reads and writes, and the ring that reads ahead.

arena     memory that is there before it is needed        border    native errors as errors of this house
reader    whole regions, several reads in flight; the rate of a disk
writer    a file written past the page cache              ring      slots read ahead of the computation
"""
