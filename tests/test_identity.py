"""What a kept run is known by: whatever a step or an evaluation reaches counts, and nothing else.

Every function of the library that is called while a small model trains and is evaluated is changed
in what it computes, one at a time, and the probe of the model must notice.
"""

import dataclasses
import functools
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch

from vcae_nb.core import project_root
from vcae_nb.kept import same
from vcae_nb.method import runs
from vcae_nb.method.flows import flow_probe, KINDS
from vcae_nb.method.models import MODELS, Row, Spec

SHAPES = {"mlp": (7,), "mnist": (1, 12, 12), "celeba": (3, 36, 36), "shapes3d": (1, 16, 16)}
CASES = [("VCAE", "mlp"), ("cWAE", "mnist"), ("VAE+IAF", "mlp"), ("TC-VCAE", "shapes3d")]
CASES += [("VCAE-white", "mlp"), ("cWAE-white", "mlp"), ("RAE-L2", "celeba"), ("FactorVAE", "mlp")]
ABOUT = ("vcae_nb.method", "vcae_nb.data.resident", "vcae_nb.core")
# they return no number, hand one on as it is, or only say where or how something is computed
SILENT = {
    "choose", "named", "row_of", "number", "_checked", "as_number", "_as_schedule", "own_numerics",
    "_read_switches", "_write_switches", "_built_in", "_frozen", "same_padding", "machine",
    "as_stored", "sha256", "hash", "_check", "_settle", "settings", "_probe_data",
}


def fresh_probe(model, network):
    runs._probe.cache_clear()
    return runs.probe(Spec(model=model, network=network), SHAPES[network])


def changed(value):
    "A value that is a little, but clearly, another one."
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            return value.flip(0)
        return value + 0.1 * (value.square() if value.ndim == 0 else value.abs())
    if isinstance(value, torch.Generator):
        return value.manual_seed(value.initial_seed() ^ 1)
    if isinstance(value, torch.nn.Module):
        return torch.nn.Sequential(*value, torch.nn.LeakyReLU(0.5))
    if dataclasses.is_dataclass(value) and hasattr(value, "z"):
        return dataclasses.replace(value, z=value.z * 1.05)
    if isinstance(value, dict):
        return {k: changed(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(changed(v) for v in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return value ^ 1 if isinstance(value, int) else value * 1.05


def reached(model, network):
    "The functions of the library that a probe calls."
    found = {}

    def watch(frame, event, arg):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(ABOUT) and frame.f_code.co_name[0] != "<":
            found[frame.f_code] = module

    runs._probe.cache_clear()
    sys.setprofile(watch)
    try:
        runs.probe(Spec(model=model, network=network), SHAPES[network])
    finally:
        sys.setprofile(None)
    return found


def holders(code):
    "Where a function is to be found: modules that imported it, and classes that have it."
    for module in [m for name, m in sys.modules.items() if name.startswith("vcae_nb.")]:
        for name, value in list(vars(module).items()):
            if getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None) is code:
                yield module, name
            if inspect.isclass(value) and value.__module__ == module.__name__:
                for attribute, method in list(vars(value).items()):
                    if getattr(method, "__code__", None) is code:
                        yield value, attribute
    for row in MODELS.values():
        if getattr(row.penalty, "__code__", None) is code:
            yield row, "penalty"


@pytest.mark.parametrize("model, network", CASES)
def test_whatever_is_reached_is_noticed(model, network, monkeypatch):
    usual = fresh_probe(model, network)
    assert same({"probe": usual}, {"probe": fresh_probe(model, network)})
    missed, tried = [], 0
    for code in reached(model, network):
        if code.co_name in SILENT or code.co_name.startswith("__") or code.co_name in ("probe", "_probe"):
            continue
        places, undo, numbers = list(holders(code)), [], []
        with monkeypatch.context() as patch:
            for place, name in places:
                original = getattr(place, name)
                if isinstance(inspect.getattr_static(place, name), property):
                    continue

                def other(*args, _original=original, **kwargs):
                    found = _original(*args, **kwargs)
                    numbers.append(found is not None)
                    return changed(found)

                other = functools.wraps(original)(other)
                if isinstance(place, Row):  # frozen
                    object.__setattr__(place, name, other)
                    undo.append((place, name, original))
                else:
                    patch.setattr(place, name, other)
            try:
                found = fresh_probe(model, network)
            except Exception:
                found = None  # it was noticed
            for place, name, original in undo:
                object.__setattr__(place, name, original)
            if found is not None and same({"probe": usual}, {"probe": found}):
                if any(numbers):
                    missed.append(f"{code.co_filename.rpartition('/')[2]}:{code.co_name}")
            tried += 1
    runs._probe.cache_clear()
    assert tried > 15 and not missed


def test_a_change_touches_its_models_only(monkeypatch):
    before = {m: fresh_probe(m, "mlp") for m in ("VCAE", "VAE")}
    original = MODELS["VAE"].penalty
    row = dataclasses.replace(MODELS["VAE"], penalty=lambda *a: 1.01 * original(*a))
    monkeypatch.setitem(MODELS, "VAE", row)
    assert not same({"probe": before["VAE"]}, {"probe": fresh_probe("VAE", "mlp")})
    assert same({"probe": before["VCAE"]}, {"probe": fresh_probe("VCAE", "mlp")})
    runs._probe.cache_clear()


@pytest.mark.parametrize("setting", [dict(betas=(0.5, 0.91)), dict(eps=1e-4)])
def test_the_optimisers_count(setting, monkeypatch):
    usual, adam = fresh_probe("FactorVAE", "mlp"), torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda p, **kw: adam(p, **(kw | setting)))
    assert not same({"probe": usual}, {"probe": fresh_probe("FactorVAE", "mlp")})
    runs._probe.cache_clear()


def test_probes_are_those_that_were_recorded():
    "A move of code changes nothing; whoever means to change a number records it anew, and says so."
    path = project_root() / "tests" / "probes.json"
    found = {f"{m} {n}": fresh_probe(m, n) for m, n in CASES}
    found |= {f"flow {kind}": {str(i): x for i, x in enumerate(flow_probe(kind))} for kind in KINDS}
    recorded = json.loads(Path(path).read_text())
    runs._probe.cache_clear()
    assert recorded.keys() == found.keys()
    for name in found:
        assert same({"probe": recorded[name]}, {"probe": found[name]}), name
