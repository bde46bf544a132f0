"""All that opening and running a module may import, run a little: what such a process weighs by itself.

`pintpot.machine.process` imports this in a fresh process and asks the kernel. PyTorch's own libraries take memory when
they first compute; so each that a module may use computes a little here.
"""

import pintpot.runtime.alone
import pintpot.runtime.module

__all__ = ["pintpot"]

pintpot.runtime.module.warm_up()
