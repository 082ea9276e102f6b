"""`fit` beside a bare loop over the same tensors, side by side in one process.

    python benchmarks/step.py [--model VCAE] [--width 0.125] [--batch 100] [--steps 40] [--rounds 5]
    python benchmarks/step.py --model VCAE --network celeba --dataset rendered-shapes3d-32-few
    python benchmarks/step.py --model TC-VCAE --network shapes3d --dataset rendered-shapes3d-32-few --width 1 --batch 64

The bare loop is what one would write first: NCHW memory, a resident tensor, Adam, no bookkeeping at all.
`fit` writes a log, checks its sums and saves checkpoints. Both train the same model on batches of the same size;
rounds alternate, and the ratio of each pair is what counts on a noisy machine.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace

import torch
from torch import nn

from vcae_nb.data.datasets import load_dataset
from vcae_nb.method.models import Autoencoder, critic_loss, critic_of, MODELS, Spec
from vcae_nb.method.networks import BatchNorm, ToMap, ToVector
from vcae_nb.method.objectives import total_correlation
from vcae_nb.method.runs import fit


def plain(net):
    "The same layers in NCHW memory from end to end, as one would write them."
    layers, channels = [], [m.conv.in_channels for m in net if hasattr(m, "conv")]
    for layer in net:
        if isinstance(layer, ToVector):
            layer = nn.Flatten()
        elif isinstance(layer, ToMap):
            layer = nn.Unflatten(1, (channels[0], layer.h, layer.w))
        elif isinstance(layer, BatchNorm):
            layer = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
        layers.append(layer)
    return nn.Sequential(*layers).to(memory_format=torch.contiguous_format)


def bare(spec, data):
    "Seconds of a plain loop."
    torch.manual_seed(0)
    images = data.train.permute(0, 3, 1, 2).float().div(255).contiguous()
    model = Autoencoder(spec, data.shape)
    model.encoder, model.decoder = plain(model.encoder), plain(model.decoder)
    penalty, critic = MODELS[spec.model].penalty, critic_of(spec)
    optimiser = torch.optim.Adam(model.parameters(), lr=spec.lr)
    critic_optimiser = torch.optim.Adam(critic.parameters(), lr=spec.tc_lr) if critic else None
    draw = lambda: images[torch.randint(len(images), (spec.batch,))]
    generator = torch.Generator()
    started = time.perf_counter()
    for _ in range(spec.steps):
        x = draw()
        code = model.encode(x, torch.randn(len(x), spec.z_dim))
        loss = model.error(x, code.z).mean() + spec.lam * penalty(code, torch.randn(len(x), spec.z_dim), spec)
        if critic:
            loss = loss + spec.gamma * total_correlation(critic(code.z))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if critic:
            critic_optimiser.zero_grad()
            critic_loss(critic, model, code.z, draw(), generator).backward()
            critic_optimiser.step()
    return time.perf_counter() - started


def fitted(spec, data):
    "Seconds of `fit`'s own training, without its last evaluation; the log says them."
    with tempfile.TemporaryDirectory() as folder:
        run = fit(spec, data, device="cpu", root=folder)
        return [line for line in run.log if "eval" not in line][-1]["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1 / 8)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="VCAE")
    parser.add_argument("--network", default="mnist")
    parser.add_argument("--dataset", default="mnist5k")
    a = parser.parse_args()
    data = load_dataset(a.dataset)
    distortion = "bernoulli" if MODELS[a.model].tc else "sse"
    spec = Spec(model=a.model, network=a.network, z_dim=16, width=a.width, batch=a.batch, steps=a.steps, distortion=distortion)
    bare(replace(spec, steps=3), data)  # warm up
    pairs = [(fitted(replace(spec, seed=r), data), bare(replace(spec, seed=r), data)) for r in range(a.rounds)]
    per_second = lambda seconds: a.steps * a.batch / seconds
    print(f"{a.model}, {a.network} network, {data.name}, width {a.width:g}, batch {a.batch}, {a.steps} steps, {torch.get_num_threads()} threads")
    for name, column in (("fit", 0), ("bare loop", 1)):
        print(f"{name:10} median {per_second(statistics.median(p[column] for p in pairs)):8.0f} images/s")
    ratios = sorted(b / f for f, b in pairs)
    print(f"fit is {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f} over {a.rounds} pairs)")


if __name__ == "__main__":
    main()
