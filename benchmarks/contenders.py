"""Ways to train the same networks on the same items: `fit`, a bare loop, and the trainer of pythae.

Each takes a `Spec`, a `Dataset` and a device, takes `spec.steps` steps, and returns the seconds that they took, without
what comes before the first step and after the last.
"""

import importlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vcae_nb.method.models import Autoencoder, discriminator_objective, discriminator_of, row_of
from vcae_nb.method.networks import BatchNorm, ToMap, ToVector
from vcae_nb.method.objectives import total_correlation
from vcae_nb.method.runs import fit, has_fast_bf16


class Skipped(Exception):
    "Why something cannot be measured here."


def package(name):
    "A package that need not be there."
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise Skipped(f"{name} is not installed ({e})") from e


def wait_for(device):
    "Let a device finish what it was given."
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_bf16(spec, device):
    "A spec in bf16. Raises `Skipped` where that is not there, or is emulated."
    if "precision" not in spec.settings:
        raise Skipped("there is no setting for the precision")
    if not has_fast_bf16(device):
        raise Skipped("this processor has no fast bf16")
    return replace(spec, precision="bf16")


def fitted(spec, data, device):
    "`fit`, with its log and its checkpoints; the log says the seconds."
    with tempfile.TemporaryDirectory() as folder:
        run = fit(spec, data, device=str(device), root=Path(folder))
        return [line for line in run.log if "eval" not in line][-1]["seconds"]


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


def plain_model(spec, data):
    model = Autoencoder(spec, data.shape)
    model.encoder, model.decoder = plain(model.encoder), plain(model.decoder)
    return model


def plain_loss(model, spec, x):
    "The objective of a model without total correlation, and the codes of the batch."
    code = model.encode(x, torch.randn(len(x), spec.z_dim, device=x.device))
    prior = torch.randn(len(x), spec.z_dim, device=x.device)
    loss = model.error(x, code.z).mean() + spec.lam * row_of(spec.model).penalty(code, prior, spec)
    return loss, code.z


def floats(data):
    "The training images in NCHW memory."
    return data.train.permute(0, 3, 1, 2).float().div(255).contiguous()


def bare(spec, data, device):
    "What one would write first: NCHW memory, a resident tensor, Adam, no bookkeeping at all."
    torch.manual_seed(0)
    images, model, critic = floats(data).to(device), plain_model(spec, data).to(device), discriminator_of(spec)
    optimiser = torch.optim.Adam(model.parameters(), lr=spec.lr)
    if critic:
        critic_optimiser = torch.optim.Adam(critic.to(device).parameters(), lr=spec.tc_lr)
    draw = lambda: images[torch.randint(len(images), (spec.batch,), device=device)]
    generator = torch.Generator(device)
    wait_for(device)
    started = time.perf_counter()
    for _ in range(spec.steps):
        loss, z = plain_loss(model, spec, draw())
        if critic:
            loss = loss + spec.gamma * total_correlation(critic(z))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if critic:
            critic_optimiser.zero_grad()
            discriminator_objective(critic, model, z, draw(), generator).backward()
            critic_optimiser.step()
    wait_for(device)
    return time.perf_counter() - started


def by_pythae(spec, data, device):
    "One epoch of pythae's `BaseTrainer`, whose model computes the same objective with the same networks."
    models, trainers = package("pythae.models"), package("pythae.trainers")
    outputs, datasets = package("pythae.models.base.base_utils"), package("pythae.data.datasets")
    if row_of(spec.model).tc:
        raise Skipped("pythae's trainer has no discriminator of this kind")

    class Same(models.BaseAE):
        def __init__(self):
            super().__init__(models.BaseAEConfig(input_dim=data.shape, latent_dim=spec.z_dim))
            self.both = plain_model(spec, data)

        def forward(self, inputs, **more):
            return outputs.ModelOutput(loss=plain_loss(self.both, spec, inputs.data)[0])

    torch.manual_seed(0)
    n = spec.steps * spec.batch
    images = floats(data)[torch.arange(n) % len(data.train)]
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(output_dir=folder, num_epochs=1, learning_rate=spec.lr, no_cuda=device.type != "cuda")
        config = trainers.BaseTrainerConfig(per_device_train_batch_size=spec.batch, **settings)
        trainer = trainers.BaseTrainer(Same(), datasets.BaseDataset(images, torch.zeros(n)), training_config=config)
        trainer.prepare_training()
        started = time.perf_counter()
        trainer.train_step(1)
        wait_for(device)
        return time.perf_counter() - started


WAYS = {
    "bare loop": bare,
    "fit": fitted,
    "fit, bf16": lambda spec, data, device: fitted(in_bf16(spec, device), data, device),
    "pythae": by_pythae,
}
