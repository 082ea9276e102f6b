"""The figures behind `nbs/204_frechet.ipynb`, at full size: are the extractors to be trusted, and what do they cost?

    python benchmarks/extractors.py                             digits alone on 10,000 images of MNIST, then the search
    python benchmarks/extractors.py --n 300 --extractors digits efficientnet --neighbours 0

Prints, for each extractor: its accuracy where it is a classifier, images a second, the floor, and the six corruptions
at five strengths, which must rise; twelve linear models of rising quality; then how alike the extractors rank these sets.
Last, the time and the memory of a search for nearest neighbours, in a process of its own. FD-efficientnet takes a while
on a CPU: there are 45 sets, so at 50 images a second it is 15 minutes for each 1,000 images.
"""

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

import torch
from scipy.stats import kendalltau, spearmanr

from vcae_nb.core import keyed_generator, VcaeError
from vcae_nb.data.datasets import load_dataset
from vcae_nb.measure import frechet
from vcae_nb.measure.frechet import (
    extractor, EXTRACTORS, frechet_distance, nearest_neighbours, quantise,
)

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "204_frechet.ipynb"


def shown(*names):
    "What the notebook's cells define and the library has no need of: the corruptions, the floor."
    space = dict(vars(frechet))
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and any(f"def {name}(" in source for name in names):
            exec(source, space)
    return space


demo = shown("corrupt", "corruption_curves", "frechet_floor")
CORRUPTIONS, corruption_curves = demo["CORRUPTIONS"], demo["corruption_curves"]
frechet_floor, rises = demo["frechet_floor"], demo["rises"]


def judge(e, data, n):
    "Print what there is to say of an extractor on `n` test images, and return its distances of spoilt images and of models."
    n = min(n, len(data.test), len(data.train))
    order = torch.randperm(len(data.train), generator=keyed_generator(0, "real against real"))[:n]
    started = time.perf_counter()
    features = e.features(data.test[:n])
    speed = n / (time.perf_counter() - started)
    print(f"\n{e.name} on {n:,} test images of {data.name}, {e.digest[:12]}, {speed:.0f} images/s on {torch.get_num_threads()} threads")
    if "extractor_accuracy" in e.facts:
        print(f"  names {e.facts['extractor_accuracy']:.2%} of the held-out digits rightly")
    curves = corruption_curves(e.features, data.test[:n], data.train[order])
    print(f"  floor {curves['noise'][0]:.3f}, of which chance, to first order, {frechet_floor(features, n):.3f}")
    for name, curve in curves.items():
        print(f"  {name:16} {'rises   ' if rises(curve) else 'DOES NOT'} {' '.join(f'{d:9.3f}' for d in curve[1:])}   at {CORRUPTIONS[name][1]}")
    print("  12 linear models:")
    models = {name: frechet_distance(e.features(images), features) for name, images in linear_models(data, n).items()}
    for kind in ("samples", "reconstructions"):
        print(f"  {kind:16}          {' '.join(f'{d:9.3f}' for name, d in models.items() if name.startswith(kind))}   from 2 to 64 components")
    return curves, models


def linear_models(data, n):
    "Simple generative models of rising quality: `n` samples and `n` reconstructions of test images from k principal components."
    x = data.train.flatten(1).double() / 255
    mean, made = x.mean(0), {}
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    values, vectors = values.flip(0), vectors.flip(1)
    test = data.test[:n].flatten(1).double() / 255 - mean
    for k in (2, 4, 8, 16, 32, 64):
        z = torch.randn(len(test), k, generator=keyed_generator(0, "linear model", k), dtype=torch.float64) * values[:k].sqrt()
        for kind, codes in (("samples", z), ("reconstructions", test @ vectors[:, :k])):
            images = (mean + codes @ vectors[:, :k].T).view(len(test), *data.test.shape[1:])
            made[f"{kind} of {k}"] = quantise(images.permute(0, 3, 1, 2).float())
    return made


def neighbours(dataset, n):
    "Seconds and peak memory (bytes) of a search, and the peak before it."
    data = load_dataset(dataset)
    queries = data.test[torch.arange(n) % len(data.test)]
    peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before, started = peak(), time.perf_counter()
    nearest_neighbours(queries, data.train, k=3)
    return len(data.train), time.perf_counter() - started, before, peak()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--n", type=int, default=10_000, help="test images")
    parser.add_argument("--extractors", nargs="*", default=["digits"], help=", ".join(EXTRACTORS))
    parser.add_argument("--neighbours", type=int, default=10_000, help="queries of the search; 0 leaves it out")
    a = parser.parse_args()
    data, found = load_dataset(a.dataset), {}
    for name in a.extractors:
        e = extractor(name)
        curves, models = judge(e, data, a.n)
        found[e.name] = {"spoilt sets": [d for curve in curves.values() for d in curve[1:]], "linear models": list(models.values())}
    names = list(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            for what in found[one]:
                tau, rho = kendalltau(found[one][what], found[other][what]).statistic, spearmanr(found[one][what], found[other][what]).statistic
                print(f"\n{one} and {other} over {len(found[one][what])} {what}: Kendall {tau:.2f}, Spearman {rho:.2f}")
    if a.neighbours:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            m, seconds, before, peak = pool.apply(neighbours, (a.dataset, a.neighbours))
        print(f"\n3 nearest of {m:,} for {a.neighbours:,} images, in pixels: {seconds:.0f} s on {torch.get_num_threads()} threads,")
        print(f"peak memory {peak / 1e9:.2f} GB, of which {before / 1e9:.2f} GB before the search")


if __name__ == "__main__":
    try:
        main()
    except VcaeError as e:
        raise SystemExit(f"error: {e}") from None
