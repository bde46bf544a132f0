"""`adapt`: a user's module becomes a folder that is described, planned and packed as every model is, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.errors import BadInput, UsageError, need
from pintpot.meter.home import home
from pintpot.model.adapted import (
    DESCRIPTION,
    EXAMPLES,
    OWN_WEIGHTS,
    SEEN,
    STAGE,
    describe_adapted,
    example_name,
    write_description,
)
from pintpot.model.safetensors import parse_safetensors
from pintpot.model.source import LocalFile, parse_json
from pintpot.model.spec import Model

if TYPE_CHECKING:
    import torch

    from pintpot.kernels.torch.examples import Example
    from pintpot.kernels.torch.record import Recorded

KEPT = "modules"
"""The folder of the home that holds recorded modules."""


def adapt(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor],
    *,
    weights: str | Path | Sequence[str | Path] | None = None,
    names: Mapping[str, str] | None = None,
    kind: Mapping[str, Any] | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    run: bool = True,
) -> Model:
    """A module of PyTorch, described: what it computes for inputs of these shapes is recorded.

    Where it has values it is `run` once, in eval mode, to see how large what meets its weights is; a block that decides
    by values, or calls what is not known here, is measured then, and stays in float32. It is the user's own
    object, and may lie on the meta device with `weights` beside it, safetensors files whose names are the module's own,
    or those that `names` gives for them; what lacks there is taken from the module. `kind` says what a person may give
    it (`pintpot.runtime.kinds`). Kept in `folder`, or under PINTPOT_HOME; `describe` reads it again without PyTorch.
    Raises UnsupportedModel for a module that cannot be recorded, and says which of its doings
    stand against it, BadInput for weights that are neither in the files nor in the module.
    """
    from pintpot.kernels.torch.examples import Example

    stage = Example(STAGE, example_inputs, repeats="output")
    return adapt_stages(module, (stage,), weights=weights, names=names, kind=kind, name=name, folder=folder, run=run)


def adapt_stages(
    module: torch.nn.Module,
    examples: Sequence[Example],
    *,
    weights: str | Path | Sequence[str | Path] | None = None,
    names: Mapping[str, str] | None = None,
    kind: Mapping[str, Any] | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    run: bool = True,
) -> Model:
    """A module of several stages, methods of its own, over the same weights: as `adapt` does with `forward` alone.

    A buffer that a stage writes in place lasts from call to call, begins at zero, and is seen by all stages.
    """
    from pintpot.kernels.torch.examples import named_inputs
    from pintpot.kernels.torch.own_blocks import KNOWN
    from pintpot.kernels.torch.record import record

    paths = _paths(weights)
    found = record(module, examples, run)
    if kind is not None:
        found.config["kind"] = dict(kind)
    given = _names(paths)
    # Who names them all knows better than the files: a tensor of the same name may be another there.
    named = {key: key for key in found.tensors} if names is None else names
    called = {key: one for key, one in named.items() if key in found.tensors and one in given}
    own = {key: one for key, one in found.tensors.items() if key not in called}
    empty = [key for key, one in own.items() if one.is_meta]
    need(not empty, f"nothing has values for {', '.join(empty[:3])}; name a safetensors file as `weights`", BadInput)
    measured = _seen(module, examples, found) if run else {}
    found.config["seen"] = bool(measured)
    title = name or type(module).__name__
    place = _place(title, found.config) if folder is None else Path(folder).expanduser()
    _measured_before(found.config, place)
    inputs = {
        example_name(example.name, key): one
        for example in examples
        for key, one in named_inputs(example.inputs).items()
    }
    try:
        place.mkdir(parents=True, exist_ok=True)
        files = [str(path.resolve()) for path in paths]
        if own:
            _save(own, place / OWN_WEIGHTS)
            files.append(OWN_WEIGHTS)
        _save(inputs, place / EXAMPLES)
        if measured:
            _save(measured, place / SEEN)
        write_description(place, title, found.config, files, found.matrices, found.vectors, called)
    except OSError as error:
        raise BadInput(f"cannot write {place}: {error.strerror}") from error
    model = describe_adapted(place)
    if "measured" in found.config:
        KNOWN[model.digest] = module
    return model


def _measured_before(config: dict[str, Any], place: Path) -> None:
    """The same recording has the seconds that it had, so that it is the same model."""
    try:
        before = parse_json((place / DESCRIPTION).read_text(encoding="utf-8"), str(place))["config"]["measured"]
    except (OSError, BadInput, KeyError, TypeError):
        return
    if isinstance(before, dict) and before.keys() == config.get("measured", {}).keys():
        config["measured"] = before


def _seen(module: torch.nn.Module, examples: Sequence[Example], found: Recorded) -> dict[str, torch.Tensor]:
    """What meets the weights, of a module whose calls leave nothing behind in it."""
    from pintpot.kernels.torch.examples import named_inputs
    from pintpot.kernels.torch.seen import seen

    if found.config["state"]:
        return {}
    parameters = dict(module.named_parameters())
    weights = {name: parameters[own] for name, own in found.matrices if own in parameters}
    return seen(module, ((one.method, named_inputs(one.inputs)) for one in examples), weights)


def _paths(weights: str | Path | Sequence[str | Path] | None) -> list[Path]:
    listed = [] if weights is None else [weights] if isinstance(weights, str | Path) else list(weights)
    found = [Path(one).expanduser() for one in listed]
    for path in found:
        known = path.suffix == ".safetensors"
        need(known, f"{path} is no safetensors file; what holds code as well is not read", UsageError)
    return found


def _names(paths: list[Path]) -> frozenset[str]:
    return frozenset(tensor.name for path in paths for tensor in parse_safetensors(LocalFile(path)))


def _place(name: str, config: dict[str, Any]) -> Path:
    import hashlib

    same = {key: one for key, one in config.items() if key != "measured"}
    mark = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]
    return home() / KEPT / f"{name}-{mark}"


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Whole or not at all; float64 becomes float32, as everything is computed."""
    import torch
    from safetensors.torch import save_file

    plain = {}
    for key, one in tensors.items():
        kept = one.detach().cpu()
        plain[key] = (kept.float() if kept.dtype == torch.float64 else kept).contiguous().clone()
    draft = path.with_name(f".{path.name}.draft")
    save_file(plain, draft)
    draft.replace(path)
