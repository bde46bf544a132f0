"""All that opening and running a module may import, run a little: what such a process weighs by itself.

`pintpot.machine.process` imports this in a fresh process and asks the kernel. PyTorch's own libraries take memory when
they first compute; so each that a module may use computes a little here.
"""

import torch

import pintpot.runtime.alone
import pintpot.runtime.module

__all__ = ["pintpot", "torch"]


def _run_once() -> None:
    """A product, a convolution, attention, and what is done value by value, on all threads."""
    rows = torch.ones(256, 256)
    with torch.inference_mode():
        torch.nn.functional.gelu(torch.softmax(rows @ rows, -1))
        torch.nn.functional.conv2d(torch.ones(1, 8, 32, 32), torch.ones(8, 8, 3, 3))
        heads = torch.ones(1, 4, 64, 16)
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)


_run_once()
