"""Backends: each binds a laid-out Program. `reference` is numpy and the truth, `native` is C++."""
