"The measures against other people's code, and what their probes see."

import contextlib
import io

import pytest
import torch

from vcae_nb.core import keyed_generator
from vcae_nb.measure import features, frechet, score
from vcae_nb.method import densities


def draws(n, d, *key):
    return torch.randn(n, d, generator=keyed_generator(0, "test of measures", *key))


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (0.6, 1.0), (0.0, 0.5), (0.2, 2.0)])
def test_precision_recall_density_and_coverage_are_those_of_their_authors(shift, scale):
    prdc = pytest.importorskip("prdc")
    real, fake = draws(1300, 8, "real"), shift + scale * draws(1100, 8, "fake")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=5)
    assert frechet.prdc(real, fake, 5, "cpu") == pytest.approx(theirs, abs=1e-12)


PROBES = [
    (frechet.frechet_probe, frechet, "_distance_of_roots", lambda d2: 1.001 * d2),
    (frechet.samples_probe, frechet, "kernel_distance", lambda found: (found[0], 1.001 * found[1])),
    (features.features_probe, features, "gaussian_distance", lambda d: 1.001 * d),
    (score.score_probe, score, "_one_sidedness", lambda x: 1.001 * x),
    (densities.density_probe, densities, "_hold_out", lambda parts: parts[::-1]),
]


@pytest.mark.parametrize("probe, module, name, change", PROBES, ids=lambda x: getattr(x, "__name__", None))
def test_a_probe_changes_with_what_is_computed_and_with_nothing_else(
    probe, module, name, change, monkeypatch
):
    before = probe()
    assert probe() == before and all(isinstance(x, (int, float)) for x in before)
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **s: change(original(*a, **s)))
    assert probe() != before


def test_an_extractor_is_known_by_its_weights_and_by_what_it_makes_of_a_picture():
    class Half(torch.nn.Flatten):
        def forward(self, x):
            return super().forward(x) / 2

    one, other = (
        frechet.Extractor("FD-pixels", network, torch.device("cpu"), 10).identity
        for network in (torch.nn.Flatten(), Half())
    )
    assert one["weights"] == other["weights"] and one["probe"] != other["probe"]
