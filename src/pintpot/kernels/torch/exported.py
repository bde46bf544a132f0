"""A module out of a `.pt2` file of torch.export: its graph is JSON and its weights are bytes, and nothing else is read.

Format: https://docs.pytorch.org/docs/stable/export/pt2_archive.html (a zip; `models/model.json` holds the graph). No
pickle and no expression in it is ever evaluated, so torch.export.load is not asked. Nodes may call operators of ATen
alone; which of them a recording may hold is decided when the module is recorded. Shapes must be numbers.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from pintpot.errors import BadFile, UnsupportedModel, need

_MOST_JSON_BYTES: Final = 256 << 20
_TARGET: Final = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_DTYPES: Final = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
                  12: "bool", 13: "bfloat16"}  # fmt: skip
_FORMATS: Final = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_PLAIN: Final = frozenset({"as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"})
_MADE_OF_NUMBERS: Final = frozenset(
    ["arange", "empty", "eye", "full", "linspace", "ones", "scalar_tensor", "tril_indices", "triu_indices", "zeros"]
)
"""Operators that may be called without a tensor."""
_LAYERS: Final = {
    "linear.default": "linear", "conv1d.default": "conv", "conv2d.default": "conv", "conv3d.default": "conv",
    "embedding.default": "embedding",
}  # fmt: skip


class Exported(nn.Module):
    """What an archive computes: called with its inputs by name, it gives the outputs as the exported module did."""

    def __init__(self, graph: Mapping[str, Any], values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        inner, signature = graph["graph"], graph["signature"]
        self._nodes, self._outputs = inner["nodes"], inner["outputs"]
        self._names: dict[str, str] = {}
        self.inputs: dict[str, torch.Tensor] = {}
        for spec in signature["input_specs"]:
            ((kind, about),) = spec.items()
            if kind == "user_input":
                name = about["arg"]["as_tensor"]["name"]
                self.inputs[name] = _example(inner["tensor_values"][name])
            else:
                key = "tensor_constant_name" if kind == "tensor_constant" else f"{kind}_name"
                need(key in about and kind != "custom_obj", f"the archive needs a {kind}", UnsupportedModel)
                self._names[about["arg"]["name"]] = about[key]
        changes = [kind for spec in signature["output_specs"] for kind in spec if kind != "user_output"]
        need(not changes, f"the archive gives back a {changes[:1]}", UnsupportedModel)
        self._tree = json.loads(graph["module_call_graph"][0]["signature"]["out_spec"])[1]
        uses = [
            arg["arg"]["as_tensor"]["name"]
            for node in self._nodes
            for arg in node["inputs"]
            if "as_tensor" in arg["arg"]
        ]
        self._once = {name for name in self._names if uses.count(name) == 1}
        for name, tensor in values.items():
            if name in self._names.values():
                self._put(name, tensor)
        self._layers = {index: place for index, node in enumerate(self._nodes) if (place := self._layer(node))}

    def forward(self, **inputs: torch.Tensor) -> Any:
        env: dict[str, torch.Tensor] = dict(inputs)
        for short, name in self._names.items():
            owner, _, key = name.rpartition(".")
            env[short] = getattr(self.get_submodule(owner), key)
        for index, node in enumerate(self._nodes):
            if index in self._layers:
                place, given = self._layers[index]
                result = self.get_submodule(place)(env[given])
            else:
                operator, args, kwargs = _call(node, env)
                result = operator(*args, **kwargs)
            _keep(node["outputs"], result, env)
        leaves = iter(_value(one, env) for one in self._outputs)
        return _grown(self._tree, leaves)

    def _put(self, name: str, tensor: torch.Tensor) -> None:
        owner: nn.Module = self
        *places, key = name.split(".")
        for place in places:
            if place not in owner._modules:
                owner.add_module(place, nn.Module())
            owner = owner.get_submodule(place)
        if tensor.is_floating_point():
            owner.register_parameter(key, nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(key, tensor)

    def _layer(self, node: Mapping[str, Any]) -> tuple[str, str] | None:
        """The layer that stands for a node, and its input, where nothing else uses the node's weight."""
        kind = _LAYERS.get(node["target"].removeprefix("torch.ops.aten."))
        given = {one["name"]: one["arg"] for one in node["inputs"]}
        weight = given.get("weight", {}).get("as_tensor", {}).get("name")
        bias = given.get("bias", {}).get("as_tensor", {}).get("name")
        place, _, key = self._names.get(weight, "").rpartition(".")
        own = bias is None or self._names.get(bias) == f"{place}.bias"
        if kind is None or weight not in self._once or key != "weight" or not place or not own:
            return None
        values: Any = self.get_submodule(place).weight
        layer = _made(kind, values, given, bias is not None)
        if layer is None:
            return None
        layer.weight = values
        if bias is not None:
            layer.bias = self.get_submodule(place).bias
        self.set_submodule(place, layer)
        return place, given["indices" if kind == "embedding" else "input"]["as_tensor"]["name"]


def read_exported(path: Path) -> Exported:
    """The module in a `.pt2` file. Raises BadFile for what is none, UnsupportedModel for what only code could read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = names[0].partition("/")[0] if names else ""
            models = [name for name in names if re.fullmatch(rf"{re.escape(root)}/models/[^/]+\.json", name)]
            need(len(models) == 1, f"{path.name} holds {len(models)} graphs of torch.export; one is read", BadFile)
            values = {**_tensors(archive, root, "weights"), **_tensors(archive, root, "constants")}
            return Exported(_json(archive, models[0])["graph_module"], values)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadFile(f"{path} is no archive of torch.export: {error}") from error
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise BadFile(f"{path.name} is not what torch.export writes: {error!r}") from error


def _tensors(archive: zipfile.ZipFile, root: str, what: str) -> dict[str, torch.Tensor]:
    listed = _json(archive, f"{root}/data/{what}/model_{what}_config.json")["config"]
    pickled = [name for name, about in listed.items() if about["use_pickle"]]
    need(not pickled, f"{', '.join(pickled[:3])} are pickled, which may hold code and is not read", UnsupportedModel)
    return {name: _tensor(archive, f"{root}/data/{what}/{about['path_name']}", about["tensor_meta"])
            for name, about in listed.items()}  # fmt: skip


def _tensor(archive: zipfile.ZipFile, name: str, about: Mapping[str, Any]) -> torch.Tensor:
    dtype = _dtype(about["dtype"])
    sizes, strides = ([int(one["as_int"]) for one in about[key]] for key in ("sizes", "strides"))
    offset = int(about["storage_offset"]["as_int"])
    need(archive.getinfo(name).compress_type == zipfile.ZIP_STORED, f"{name} is compressed", BadFile)
    data = bytearray(archive.read(name))
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if all(sizes) else -1
    room = len(data) // dtype.itemsize
    need(min((*strides, offset, 0)) >= 0 and offset + last < max(room, 1), f"{name} has {len(data)} bytes", BadFile)
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.as_strided(sizes, strides, offset).contiguous()


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    need(archive.getinfo(name).file_size <= _MOST_JSON_BYTES, f"{name} is too large", BadFile)
    found: dict[str, Any] = json.loads(archive.read(name))
    return found


def _dtype(number: int) -> torch.dtype:
    need(number in _DTYPES, f"tensors of the kind {number} have no home here", UnsupportedModel)
    found: torch.dtype = getattr(torch, _DTYPES[number])
    return found


def _example(about: Mapping[str, Any]) -> torch.Tensor:
    known = all("as_int" in one for one in about["sizes"])
    need(known, "the archive was exported for shapes that are no numbers; export it for one shape", UnsupportedModel)
    return torch.zeros([one["as_int"] for one in about["sizes"]], dtype=_dtype(about["dtype"]))


def _call(node: Mapping[str, Any], env: Mapping[str, torch.Tensor]) -> tuple[Any, list[Any], dict[str, Any]]:
    target = _TARGET.fullmatch(node["target"])
    need(
        target is not None, f"the archive calls {node['target']!r:.80}, which is no operator of ATen", UnsupportedModel
    )
    name, overload = (target[1], target[2]) if target else ("", "")
    found = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise UnsupportedModel(f"this PyTorch has no operator {name}.{overload}")
    takes = any("Tensor" in str(one.type) for one in found._schema.arguments)
    need(takes or name in _MADE_OF_NUMBERS, f"the archive calls {name}, which takes no tensor", UnsupportedModel)
    given = [(one["name"], _value(one["arg"], env), one.get("kind")) for one in node["inputs"]]
    only = {one.name for one in found._schema.arguments if one.kwarg_only}
    named = {key: value for key, value, kind in given if key in only or kind == 2}
    return found, [value for key, value, _ in given if key not in named], named


def _value(arg: Mapping[str, Any], env: Mapping[str, torch.Tensor]) -> Any:
    ((kind, value),) = arg.items()
    if kind == "as_tensor":
        return env[value["name"]]
    if kind == "as_tensors":
        return [env[one["name"]] for one in value]
    if kind == "as_optional_tensors":
        return [env[one["as_tensor"]["name"]] if "as_tensor" in one else None for one in value]
    if kind == "as_none":
        return None
    if kind in _PLAIN:
        return value
    if kind == "as_scalar_type":
        return _dtype(value)
    if kind == "as_memory_format" and value in _FORMATS:
        return _FORMATS[value]
    if kind == "as_device":
        return torch.device("cpu")
    if kind == "as_layout":
        return torch.strided
    if kind in ("as_sym_int", "as_sym_ints"):
        numbers = [one.get("as_int") for one in (value if isinstance(value, list) else [value])]
        need(
            None not in numbers, "the archive has shapes that are no numbers; export it for one shape", UnsupportedModel
        )
        return numbers if isinstance(value, list) else numbers[0]
    raise UnsupportedModel(f"the archive has an argument of the kind {kind!r:.40}")


def _keep(outputs: Any, result: Any, env: dict[str, torch.Tensor]) -> None:
    names = [one for out in outputs for one in (out.get("as_tensors") or [out.get("as_tensor")])]
    given = list(result) if isinstance(result, tuple | list) else [result]
    for name, one in zip(names, given, strict=False):
        if name is not None:
            env[name["name"]] = one


def _made(kind: str, weight: torch.Tensor, given: Mapping[str, Any], biased: bool) -> Any:
    if kind == "linear":
        return nn.Linear(weight.shape[1], weight.shape[0], biased, device="meta")
    if kind == "embedding":
        return nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
    settings = {
        key: given[key]["as_ints"] for key in ("stride", "padding", "dilation") if "as_ints" in given.get(key, {})
    }
    if "padding" in given and "padding" not in settings:
        return None
    groups, sizes = given.get("groups", {}).get("as_int", 1), weight.shape[2:]
    made: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(sizes) - 1]
    full = {key: tuple(one) * (len(sizes) if len(one) == 1 else 1) for key, one in settings.items()}
    return made(
        weight.shape[1] * groups, weight.shape[0], tuple(sizes), groups=groups, bias=biased, device="meta", **full
    )


def _grown(tree: Mapping[str, Any], leaves: Any) -> Any:
    """The outputs in the lists and dicts that the exported module gave."""
    kind, children = tree["type"], tree["children_spec"]
    if kind is None:
        return next(leaves)
    inner = [_grown(child, leaves) for child in children]
    if kind in ("builtins.dict", "collections.OrderedDict"):
        return dict(zip(json.loads(tree["context"]), inner, strict=True))
    return tuple(inner)
