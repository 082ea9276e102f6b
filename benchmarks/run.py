"""Everything that this library claims about its speed, measured side by side in one run.

    make benchmark                                  about a quarter of an hour; nothing else should be running
    python benchmarks/run.py --only training start  some parts alone
    python benchmarks/run.py --quick                whether it works; the numbers mean nothing

Whatever is compared takes turns, round by round, and the ratios of each round are kept: on a noisy machine they say
more than the seconds do. What cannot be measured here is named, with the reason. The result goes to
`results/benchmark.json`, which the page `nbs/317_speed.ipynb` shows.

pythae and zuko are looked for in an environment of their own (`.vcae/rivals`), which sees this one's packages and is
made at the first run; without a network they are skipped.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import scipy.linalg
import torch
from contenders import package, Skipped, WAYS

from vcae_nb.core import keyed_generator, machine, project_root
from vcae_nb.data.datasets import dataset_of
from vcae_nb.data.resident import as_batch, Mapped
from vcae_nb.data.shapes3d import FACTORS, N_IMAGES, RenderedShapes3D
from vcae_nb.measure.frechet import frechet_distance
from vcae_nb.measure.score import factor_vae_score, PROTOCOLS
from vcae_nb.method.channels import Additive
from vcae_nb.method.flows import Flow, FlowSpec, FlowTrainer
from vcae_nb.method.metrics import evaluate
from vcae_nb.method.models import Autoencoder, Spec

CPU = torch.device("cpu")
ROUNDS = 5
RIVALS = ("pythae==0.1.2", "zuko==1.6.0")
SIDES = {"mnist": (1, 28, 28), "celeba": (3, 64, 64), "shapes3d": (3, 64, 64)}
CASES = [  # model, network, width, batch, steps
    ("VCAE", "mnist", 1 / 8, 100, 40),
    ("VCAE", "mnist", 1, 100, 3),
    ("VCAE", "celeba", 1 / 8, 100, 10),
    ("VCAE", "shapes3d", 1, 64, 20),
    ("TC-VCAE", "shapes3d", 1, 64, 20),
]


def seconds(work):
    "How long a call takes."
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def side_by_side(part, case, ways, of, unit, rounds, beside=None):
    """Measures of several ways to do the same, in turns; each way is a function without arguments that returns seconds.

    `of` is how many units are done; `beside` is the way whose seconds are divided by those of the others.
    """
    taken, skipped = {}, {}
    for name, way in ways.items():  # once, so that everything is loaded, and to see what works
        try:
            first = way()
            taken[name] = [] if rounds else [first]
        except Skipped as e:
            skipped[name] = str(e)
    for i in range(rounds):
        names = list(taken)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            taken[name].append(ways[name]())
    about = {"part": part, "case": case, "unit": unit, "of": of}
    for name, values in taken.items():
        ratios = [b / s for b, s in zip(taken.get(beside, []), values)] if name != beside else []
        yield about | {"what": name, "seconds": values, "beside": beside, "times_as_fast": ratios}
    for name, why in skipped.items():
        yield about | {"what": name, "skipped": why}


def images(shape, n=2000):
    "Images of no meaning; what they show makes no difference to the speed."
    g = keyed_generator(0, "benchmark")
    return dataset_of(torch.randint(256, (n, *shape), dtype=torch.uint8, generator=g), name="noise")


def cases(quick):
    "The specs of `CASES`."
    for model, network, width, batch, steps in CASES[::2] if quick else CASES:
        settings = dict(width=1 / 64, batch=4, steps=2) if quick else dict(width=width, batch=batch, steps=steps)
        units = 8 if quick and model.startswith("TC-") else None
        yield Spec(model=model, network=network, z_dim=16, tc_units=units, **settings)


def case_of(spec):
    return f"{spec.model}, {spec.network} network, width {spec.width:g}, batch {spec.batch}"


def training(quick, rounds):
    "`fit` beside a bare loop and pythae's trainer, in float32 and in bf16."
    for spec in cases(quick):
        data, turn = images(SIDES[spec.network], 40 if quick else 2000), iter(range(10**6))
        ways = {n: lambda way=way: way(replace(spec, seed=next(turn)), data, CPU) for n, way in WAYS.items()}
        yield from side_by_side("training", case_of(spec), ways, spec.steps * spec.batch, "image", rounds, "bare loop")


def memory(quick, rounds):
    "What a training adds to the memory of its process, at its peak."
    for i, spec in enumerate(list(cases(quick))[: 1 if quick else None]):
        for name in ("fit",) if quick else ("bare loop", "fit"):
            command = [sys.executable, __file__, "--peak", str(i), name] + ["--quick"] * quick
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            yield {"part": "memory", "case": case_of(spec), "what": name, "bytes": int(done.stdout.split()[-1])}


def peak(i, name, quick):
    "Bytes that a way to train adds to this process."
    spec = list(cases(quick))[i]
    data, used = images(SIDES[spec.network], 40 if quick else 2000), lambda: resource.getrusage(resource.RUSAGE_SELF)
    before = used().ru_maxrss
    WAYS[name](replace(spec, steps=2), data, CPU)
    return 1024 * (used().ru_maxrss - before)


def batches(quick, rounds):
    "64 random images of 3D-Shapes."
    n, rendered = 64 if quick else 15_000, RenderedShapes3D()
    index = torch.randint(n, (64,), generator=keyed_generator(0, "benchmark"))
    with tempfile.TemporaryDirectory() as folder:
        array, original = Path(folder) / "like.npy", Path(folder) / "like.h5"
        np.save(array, rendered.images(torch.arange(n)).numpy())
        with h5py.File(original, "w") as f:  # chunks as those of the real file
            f.create_dataset("images", data=np.load(array), chunks=(n, 4, 4, 1), compression="gzip", compression_opts=1)
        sources = {
            "rendered": rendered.images,
            "mapped from the disk": Mapped(np.load(array, mmap_mode="r"), "like").images,
            "resident": torch.from_numpy(np.load(array)).__getitem__,
        }
        ways = {name: lambda s=source: seconds(lambda: as_batch(s(index))) for name, source in sources.items()}
        with h5py.File(original) as f:
            one = lambda: seconds(lambda: f["images"][int(index[0])])
            ways["the original file"] = lambda: one() * len(index)
            yield from side_by_side("batches", "3D-Shapes", ways, len(index), "image", rounds, "the original file")


def votes_in_a_loop(codes, protocol):
    "The score as one would write it first."
    rng, std, sizes = np.random.default_rng(0), codes.std(0), list(FACTORS.values())
    table = np.zeros((codes.shape[1], len(sizes)), int)
    for _ in range(protocol.train + protocol.test):
        factors, fixed = rng.integers(sizes, size=(protocol.images, len(sizes))), rng.integers(len(sizes))
        factors[:, fixed] = factors[0, fixed]
        part = codes[np.ravel_multi_index(factors.T, sizes)]
        table[(part.var(0) / std**2).argmin(), fixed] += 1
    return table.max(1).sum() / table.sum()


def score(quick, rounds):
    "The FactorVAE score over all 480,000 codes."
    codes = torch.randn(N_IMAGES, 6, generator=keyed_generator(0, "benchmark"))
    for name, protocol in PROTOCOLS.items():
        protocol = replace(protocol, train=20, test=protocol.test and 20) if quick else protocol
        ways = {
            "a loop over votes": lambda: seconds(lambda: votes_in_a_loop(codes.numpy(), protocol)),
            "factor_vae_score": lambda: seconds(lambda: factor_vae_score(codes, protocol)),
        }
        yield from side_by_side("score", name, ways, 1, "score", rounds, "a loop over votes")


def by_sqrtm(a, b):
    "The Fréchet distance from covariances and a matrix square root, as it is usually computed."
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(c1 @ c2).real
    return ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)


def frechet(quick, rounds):
    "The Fréchet distance of two sets of features."
    for n, d in [(50, 8)] if quick else [(10_000, 128), (10_000, 1280)]:
        a, b = torch.randn(2, n, d, generator=keyed_generator(0, "benchmark"), dtype=torch.float64)
        ways = {
            "sqrtm": lambda: seconds(lambda: by_sqrtm(a.numpy(), b.numpy())),
            "frechet_distance": lambda: seconds(lambda: frechet_distance(a, b)),
        }
        yield from side_by_side("frechet", f"{n:,} images, {d} features", ways, 1, "distance", rounds, "sqrtm")


def flow(quick, rounds):
    "Steps of a MAF of Table 5, beside zuko's of the same size."
    steps, batch = (2, 10) if quick else (50, 100)
    data = dataset_of(torch.randn(2000, 16, generator=keyed_generator(0, "benchmark")))

    def by_zuko():
        flows = package("zuko.flows")
        maf = flows.MAF(16, transforms=6, hidden_features=(64, 64))
        optimiser = torch.optim.Adam(maf.parameters(), lr=1e-3)

        def loop():
            for _ in range(steps):
                loss = -maf().log_prob(data.train[torch.randint(len(data.train), (batch,))]).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

        return seconds(loop)

    inputs = {"train": data.train, "test": data.test}
    trainer = FlowTrainer(FlowSpec("maf", 6, (64, 64), batch=batch), Additive(16, 0.1), inputs, 16)

    def ours():
        for _ in range(steps):
            trainer.step()
        trainer.means()

    ways = {"zuko": by_zuko, "fit_flow": lambda: seconds(ours)}
    yield from side_by_side("flow", "MAF, 6 layers, 64-64", ways, steps, "step", rounds, "zuko")


def start(quick, rounds):
    "What a user waits for first, in a new process each."
    first = "from vcae_nb import fit, Spec; fit(Spec(dataset='mnist5k', width=1/64, steps=1, batch=10), root='{}')"

    def process(*command):
        def run():
            with tempfile.TemporaryDirectory() as folder:
                given = [part.format(folder) for part in command]
                return seconds(lambda: subprocess.run([sys.executable, *given], check=True, capture_output=True))

        return run

    ways = {
        "import torch": process("-c", "import torch"),
        "import vcae_nb": process("-c", "import vcae_nb"),
        "vcae --help": process("-c", "from vcae_nb.book.cli import main; main()", "--help"),
        "first fit": process("-c", first),
    }
    if quick:
        ways = {"import vcae_nb": ways["import vcae_nb"]}
    yield from side_by_side("start", "a new process", ways, 1, "start", rounds)


def growth(quick, rounds):
    "How seconds grow with the number of images, with the width and with the number of codes."
    sizes = [8, 16] if quick else [500, 1000, 2000, 4000]
    widths = [1 / 64, 1 / 32] if quick else [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    counts = [10, 20] if quick else [1_000, 10_000, 100_000]
    spec = Spec(network="mnist", width=1 / 64 if quick else 1 / 8, batch=4 if quick else 100, steps=2)
    data = images(SIDES["mnist"], 5000)
    model, maf = Autoencoder(spec, data.shape), Flow(FlowSpec("maf", 6, (64, 64)), 16)
    one = lambda axis, n, work: side_by_side("growth", axis, {f"{n:g}": work}, n, axis, rounds)
    for n in sizes:
        yield from one("images evaluated", n, lambda: seconds(lambda: evaluate(model, data.train[:n])))
    for width in widths:
        yield from one("width", width, lambda: WAYS["fit"](replace(spec, width=width), data, CPU) / spec.steps)
    for n in counts:
        yield from one("codes drawn from a flow", n, lambda: seconds(lambda: maf.sample(n)))


PARTS = (training, memory, batches, score, frechet, flow, start, growth)


def with_rivals(folder):
    "The interpreter of an environment that sees this one's packages, with pythae and zuko where pip finds them."
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        venv.create(folder, with_pip=True, clear=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "library.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *RIVALS]
        if subprocess.run(command).returncode:
            print("pythae and zuko could not be installed; what is measured beside them is skipped")
        else:
            made.touch()
    return python


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[part.__name__ for part in PARTS], help="parts; all by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, each once, nothing installed")
    parser.add_argument("--out", type=Path, default=project_root() / "results" / "benchmark.json")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peak:
        return print(peak(int(a.peak[0]), a.peak[1], a.quick))
    if not a.quick and not os.environ.get("VCAE_RIVALS"):
        python = with_rivals(project_root() / ".vcae" / "rivals")
        os.execve(python, [str(python), *sys.argv], os.environ | {"VCAE_RIVALS": "1"})
    found, rounds = [], 0 if a.quick else a.rounds
    for part in PARTS:
        if not a.only or part.__name__ in a.only:
            print(f"{part.__name__}: {part.__doc__}", flush=True)
            for measure in part(a.quick, rounds):
                print("  ", json.dumps(measure), flush=True)
                found.append(measure)
    result = {"quick": a.quick, "rounds": rounds, "machine": machine(CPU), "measures": found}
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {a.out}")


if __name__ == "__main__":
    main()
