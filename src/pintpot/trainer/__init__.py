"""A model learns from examples, block by block, inside a memory budget; needs PyTorch (`pip install pintpot[tune]`)."""
