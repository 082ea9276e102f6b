"""What can only be checked where there is a GPU, in about ten minutes.

    python benchmarks/gpu_checks.py                       writes results/gpu_checks.json
    python benchmarks/gpu_checks.py --device cpu --quick  whether the program itself works

This was written without a GPU at hand. It has run on a CPU and on the pretended device of `tests/pretend.py`, never on
a GPU; until a `results/gpu_checks.json` from one is committed, nothing here has been seen to hold.

A check holds, or it does not, or it only measures. It ends with 1 where one does not hold.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from contenders import in_bf16, Skipped, WAYS
from run import case_of, images, side_by_side, SIDES
from scipy import stats

from vcae_nb.core import keyed_generator, machine, own_numerics, pick_device, project_root
from vcae_nb.data.datasets import dataset_of
from vcae_nb.method.channels import Additive
from vcae_nb.method.flows import fit_flow, FlowSpec, FlowTrainer, sample
from vcae_nb.method.models import Autoencoder, MODELS, Spec
from vcae_nb.method.runs import fit
from vcae_nb.method.training import Trainer

MARGIN = 0.02  # what two precisions may differ by, of float32's mean, to count as equal
CASES = [("VCAE", "mnist"), ("VAE+IAF", "mnist"), ("cWAE-white", "mnist"), ("VCAE", "celeba"), ("TC-cWAE", "shapes3d")]


def tiny(model, network, quick, **settings):
    "A spec of full size, or a very small one."
    if quick:
        settings = dict(width=1 / 64, batch=8, steps=4, tc_units=8 if MODELS[model].tc else None) | settings
    return Spec(model=model, network=network, **({"z_dim": 16, "steps": 50} | settings))


def items(network, quick):
    return images(SIDES[network], 40 if quick else 2000)


def trained(spec, data, device, steps, dtype=torch.float32):
    "A trainer after some steps."
    trainer = Trainer(spec, data, device, dtype)
    for _ in range(steps):
        trainer.step()
    return trainer


def differences(a, b):
    "Names of the tensors that are not equal to the bit."
    return [name for name in a if not torch.equal(a[name].cpu(), b[name].cpu())]


def furthest(a, b):
    "The largest difference of two tensors, of the largest value."
    return ((a.cpu() - b.cpu()).abs().max() / b.abs().max()).item()


def switches(device, quick):
    "Inside a step of `fit`, float32 is float32 and kernels are deterministic, whatever the process had set before."
    seen, encode = {}, Autoencoder.encode

    def reading(self, x, eps):
        if not seen:
            seen.update(
                matmul_tf32=torch.backends.cuda.matmul.allow_tf32,
                convolution_tf32=torch.backends.cudnn.allow_tf32,
                search=torch.backends.cudnn.benchmark,
                autocast=torch.is_autocast_enabled(device.type),
                deterministic=torch.are_deterministic_algorithms_enabled(),
                deterministic_convolutions=torch.backends.cudnn.deterministic,
                dtype=str(x.dtype),
            )
        return encode(self, x, eps)

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with tempfile.TemporaryDirectory() as folder, patch.object(Autoencoder, "encode", reading):
            spec = tiny("VCAE", "mnist", True)
            with patch("vcae_nb.method.runs.probe", lambda *args: {}):  # its steps are others
                fit(spec, items("mnist", True), device=str(device), root=Path(folder))
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    wanted = dict.fromkeys(("matmul_tf32", "convolution_tf32", "search", "autocast"), False)
    wanted |= dict.fromkeys(("deterministic", "deterministic_convolutions"), True) | {"dtype": "torch.float32"}
    return seen == wanted, seen


def float32(device, quick):
    "Products and convolutions have the error of float32 (1e-7 of their size), not that of TF32 (1e-4)."
    n, g = 16 if quick else 512, keyed_generator("float32")
    a, b = torch.randn(2, n, n, generator=g, dtype=torch.float64)
    x, w = a.view(1, n, -1, 8), torch.randn(n, n, 3, 3, generator=g, dtype=torch.float64)
    on = lambda t: t.float().to(device)
    with own_numerics():
        found = {
            "product": furthest((on(a) @ on(b)).double(), a @ b),
            "convolution": furthest(F.conv2d(on(x), on(w), padding=1).double(), F.conv2d(x, w, padding=1)),
        }
    return max(found.values()) < 1e-5, found


def as_the_cpu(device, quick):
    "Without noise, and in float64, the losses of steps on the device are those of the CPU but for rounding."
    found = {}
    for network in SIDES:
        spec, data = tiny("AE", network, True), items(network, True)
        with own_numerics():
            theirs, ours = (trained(spec, data, d, spec.steps, torch.float64) for d in (torch.device("cpu"), device))
        expected = theirs.means()["distortion"]
        found[network] = abs(ours.means()["distortion"] - expected) / expected
    return max(found.values()) < 1e-6, found


def outputs(device, quick):
    "Codes, reconstructions and samples of a run are those that the CPU gives, but for rounding."
    data, found = items("mnist", True), {}
    with tempfile.TemporaryDirectory() as folder:
        run = fit(tiny("VCAE", "mnist", True), data, device=str(device), root=Path(folder))
        flow = fit_flow(run, FlowSpec(layers=2, hidden=(8, 8), steps=4, batch=8), data, device=str(device))
        for name, of in {
            "codes": lambda d: run.encode(data.test, device=d),
            "reconstructions": lambda d: run.reconstruct(data.test, device=d),
            "samples": lambda d: sample(run, 50, flow=flow, device=d),
        }.items():
            found[name] = furthest(of(str(device)), of("cpu"))
    return max(found.values()) < 1e-4, found


def deterministic(device, quick):
    "The same steps twice are equal to the bit, and so are steps that go on from a checkpoint."
    found = {}
    for model, network in CASES:
        spec, data = tiny(model, network, quick), items(network, quick)
        with own_numerics():
            whole, again = (trained(spec, data, device, spec.steps) for _ in range(2))
            half = trained(spec, data, device, spec.steps // 2)
            resumed = Trainer(spec, data, device)
            resumed.load(half.done, {name: t.cpu() for name, t in half.state().items()})
            while resumed.done < spec.steps:
                resumed.step()
        found[f"{model}, {network}"] = {
            "twice": differences(whole.state(), again.state()),
            "resumed": differences(whole.state(), resumed.state()),
        }
    return not any(names for pair in found.values() for names in pair.values()), found


def waiting(device, quick):
    "No step waits for the device, as CUDA itself sees it."
    if device.type != "cuda":
        raise Skipped("CUDA alone can say so")
    found, data = {}, dataset_of(torch.randn(60, 7, generator=keyed_generator("waiting")))
    for model in MODELS:
        trainer = trained(tiny(model, "mlp", True, steps=9), data, device, 1)
        found[model] = sync_of(trainer.step)
    inputs = {split: torch.randn(40, 4, device=device) for split in ("train", "test")}
    for kind in ("maf", "realnvp"):
        trainer = FlowTrainer(FlowSpec(kind, 2, (8, 8), batch=8), Additive(4, 0.1), inputs, 4)
        trainer.step()
        found[kind] = sync_of(trainer.step)
    return not any(found.values()), {name: said for name, said in found.items() if said}


def sync_of(step):
    "What CUDA says of a step that waits."
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as e:
        return str(e).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def graph(device, quick):
    "A step as a CUDA graph is the eager step, to the bit."
    if device.type != "cuda":
        raise Skipped("there are no graphs but CUDA's")
    if not hasattr(Trainer, "graphed"):
        raise Skipped("no trainer has a graph yet")
    found = {}
    for model, network in CASES:
        spec, data = tiny(model, network, quick), items(network, quick)
        with own_numerics():
            eager, graphed = trained(spec, data, device, spec.steps), Trainer(spec, data, device).graphed()
            for _ in range(spec.steps):
                graphed.step()
        found[f"{model}, {network}"] = differences(eager.state(), graphed.state())
    return not any(found.values()), found


def ratios(device, quick):
    "`fit` beside a bare loop at full width, in float32 and in bf16; times as fast, round by round."
    found = []
    for network in SIDES:
        data = items(network, quick)
        for width in (1 / 8, 1):
            size = {} if quick else {"width": width, "steps": 200, "batch": 100}
            spec, turn = tiny("VCAE", network, quick, **size), iter(range(10**6))
            ways = {n: lambda way=way: way(replace(spec, seed=next(turn)), data, device) for n, way in WAYS.items()}
            of = spec.steps * spec.batch
            found += side_by_side("training", case_of(spec), ways, of, "image", 0 if quick else 3, "bare loop")
    return None, found


def memory(device, quick):
    "Bytes on the device at the peak of a training at full width."
    if device.type != "cuda":
        raise Skipped("only CUDA counts them")
    found = {}
    for network in SIDES:
        torch.cuda.reset_peak_memory_stats(device)
        trained(tiny("VCAE", network, quick), items(network, quick), device, 3)
        found[network] = torch.cuda.max_memory_allocated(device)
    return None, found


def bf16_quality(device, quick):
    "In bf16 test error and total variance are those of float32 within `MARGIN`, over five seeds (90 % intervals)."
    found, seeds = {}, 2 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        for model in ("VCAE", "cWAE", "VAE"):
            size = {} if quick else {"width": 1 / 4, "steps": 600, "batch": 100, "z_dim": 8, "dataset": "mnist5k"}
            spec, data = tiny(model, "mnist", quick, **size), items("mnist", True) if quick else None
            half = replace(spec, precision="bf16") if quick else in_bf16(spec, device)
            runs = lambda s: [
                fit(replace(s, seed=i), data, device=str(device), root=Path(folder)) for i in range(seeds)
            ]
            pairs = list(zip(runs(half), runs(spec)))
            for metric in ("test_sse_mean", "test_total_variance"):
                ours, theirs = (torch.tensor([pair[i].metrics[metric] for pair in pairs]) for i in (0, 1))
                d = (ours - theirs).double() / theirs.mean()
                reach = stats.t.ppf(0.95, seeds - 1) * d.std().item() / seeds**0.5
                found[f"{model}, {metric}"] = [d.mean().item() - reach, d.mean().item() + reach]
    return all(-MARGIN < low and high < MARGIN for low, high in found.values()), found


CHECKS = (
    switches, float32, as_the_cpu, outputs, deterministic, waiting, graph, ratios, memory, bf16_quality,
)  # fmt: skip


def run_checks(device, quick=False, minutes=10.0, names=None):
    "The record of each check, as it is made."
    started = time.perf_counter()
    for check in CHECKS:
        if names and check.__name__ not in names:
            continue
        record = {"check": check.__name__, "says": check.__doc__}
        began = time.perf_counter()
        try:
            if began - started > 60 * minutes:
                raise Skipped(f"{minutes:g} minutes were over")
            holds, found = check(device, quick)
            yield record | {"holds": holds, "found": found, "seconds": round(time.perf_counter() - began, 1)}
        except Skipped as e:
            yield record | {"skipped": str(e)}
        except Exception as e:
            yield record | {"holds": False, "found": f"{type(e).__name__}: {e}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", nargs="*", choices=[check.__name__ for check in CHECKS])
    parser.add_argument("--minutes", type=float, default=10, help="no check begins later than this")
    parser.add_argument("--out", type=Path, default=project_root() / "results" / "gpu_checks.json")
    a = parser.parse_args()
    device, records = pick_device(a.device), []
    for record in run_checks(device, a.quick, a.minutes, a.only):
        word = "skipped" if "skipped" in record else {True: "holds", False: "DOES NOT HOLD"}.get(record["holds"], "measured")
        print(f"{record['check']}: {word}. {record['says']}\n  {record.get('found', record.get('skipped'))}", flush=True)
        records.append(record)
    result = {"machine": machine(device), "quick": a.quick, "checks": records}
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {a.out}")
    raise SystemExit(any(record.get("holds") is False for record in records))


if __name__ == "__main__":
    main()
