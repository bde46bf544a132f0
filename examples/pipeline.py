"""Pipeline: diffusers' own pipeline with a stage in the place of each network, inside a memory budget.

The folder is one as diffusers writes it, or a hub id; here a tiny one with drawn weights, which draws noise.
"""

import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

import pintpot

torch.manual_seed(0)
transformer = DiTTransformer2DModel(
    num_attention_heads=4, attention_head_dim=16, out_channels=8, num_layers=2, sample_size=8
)
decoder = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)

with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch) / "tiny"
    DiTPipeline(transformer, decoder, DDIMScheduler()).save_pretrained(folder)
    pipeline = pintpot.pipeline(folder, memory="1.5GB")
    call = {"class_labels": [7], "num_inference_steps": 4, "output_type": "np"}
    print("promised")
    print(pipeline.promise(**call))
    image = pipeline(**call, generator=torch.Generator().manual_seed(1)).images[0]
    print(f"an image of {image.shape}; measured beside promised")
    print(pipeline.keeper.receipt())
    pipeline.keeper.close()
