"""What it costs to have images of 3D-Shapes: composed, from the converted array, and from the original file image by image.

    python benchmarks/shapes3d.py [--rounds 5]

The original file is stood in for by one of its layout (chunks of 15,000 x 4 x 4 x 1, gzip) with 15,000 rendered images.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import torch

from vcae_nb.core import keyed_generator, sha256
from vcae_nb.data.datasets import load_dataset
from vcae_nb.data.resident import as_batch
from vcae_nb.method.models import Spec
from vcae_nb.data.shapes3d import (
    convert_shapes3d, labels_of, N_IMAGES, RealShapes3D, RenderedShapes3D,
)
from vcae_nb.method.training import Trainer

N = 15_000


def median_ms(work, rounds: int) -> float:
    "Median milliseconds of a call, after one that does not count."
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")

    start = time.perf_counter()
    rendered = RenderedShapes3D()
    print(f"480 geometries: {time.perf_counter() - start:.1f} s")
    every = torch.arange(N_IMAGES)[:: N_IMAGES // 48_000]
    start = time.perf_counter()
    rendered.images(every)
    seconds = time.perf_counter() - start
    print(f"composing: {len(every) / seconds:,.0f} images/s, all {N_IMAGES:,} in {seconds * N_IMAGES / len(every):.0f} s")

    index = torch.randint(N, (64,), generator=keyed_generator(0, "benchmark"))
    print(f"64 random images, composed: {median_ms(lambda: rendered.images(index), 20 * rounds):.2f} ms")
    with tempfile.TemporaryDirectory() as folder:
        h5, array = Path(folder) / "like.h5", Path(folder) / "like"
        with h5py.File(h5, "w") as f:
            images = rendered.images(torch.arange(N)).numpy()
            f.create_dataset("images", data=images, chunks=(N, 4, 4, 1), compression="gzip", compression_opts=1)
            f.create_dataset("labels", data=labels_of(torch.arange(N)).numpy())
        start = time.perf_counter()
        convert_shapes3d(h5, array, size=h5.stat().st_size, digest=sha256(h5.read_bytes()), n=N)
        print(f"converting {N:,} images: {time.perf_counter() - start:.1f} s")
        real = RealShapes3D(array)
        print(f"64 random images, memory-mapped: {median_ms(lambda: real.images(index), 20 * rounds):.2f} ms")
        with h5py.File(h5) as f:
            print(f"1 random image of the original layout: {median_ms(lambda: f['images'][int(index[0])], rounds):.0f} ms")

    spec = Spec(model="TC-VCAE", dataset="rendered-shapes3d", network="shapes3d", z_dim=6, sigma=0.1, batch=64, distortion="bernoulli")
    trainer = Trainer(spec, load_dataset(spec.dataset), torch.device("cpu"))
    step = median_ms(trainer.step, rounds)
    batch = median_ms(lambda: as_batch(rendered.images(index)), 20 * rounds)
    print(f"TC-VCAE, full size: {step:.0f} ms a step; its two batches {2 * batch:.1f} ms, {2 * batch / step:.1%}")


if __name__ == "__main__":
    main()
