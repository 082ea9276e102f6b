"What measures a run computes on a device what it computes on the CPU."

import pretend
import pytest
import torch
from pretend import NAME, watched

from vcae_nb.data.resident import as_batch, Composed
from vcae_nb.data.shapes3d import N_IMAGES, RenderedShapes3D
from vcae_nb.measure.frechet import (
    _DigitNet, _EfficientNetFeatures, _InceptionFeatures, Extractor, nearest_neighbours,
)
from vcae_nb.measure.score import factor_vae_score

pytestmark = pytest.mark.skipif(bool(pretend.MISSING), reason=str(pretend.MISSING))
draws = lambda *shape: torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def on_both(compute):
    "What `compute(device)` gives on the CPU and on the device, both on the CPU."
    return [compute(torch.device(name)).cpu() for name in ("cpu", NAME)]


def network_of(name):
    "An extractor's network with weights of no meaning, and images that it reads."
    if name == "digits":
        return _DigitNet(), (5, 28, 28, 1)
    if name == "efficientnet":
        package = pytest.importorskip("efficientnet_lite_pytorch")
        return _EfficientNetFeatures(package.EfficientNet.from_name("efficientnet-lite0")), (2, 16, 16, 3)
    inception = pytest.importorskip("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "fid_inception_v3", lambda: inception._inception_v3(weights=None, init_weights=False))
        return _InceptionFeatures(inception.InceptionV3()), (2, 16, 16, 3)


@pytest.mark.parametrize("name", ["digits", "efficientnet", "inception"])
def test_features_are_those_of_the_cpu(name):
    network, shape = network_of(name)
    ours, theirs = on_both(lambda device: Extractor(name, network, device, 3).features(draws(*shape)))
    if name == "digits":
        assert torch.equal(ours, theirs)
    else:  # they resize, which is another kernel on a device that shall be deterministic
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_neighbours_are_those_of_the_cpu():
    x = draws(60, 8, 8, 3)
    both = lambda device: nearest_neighbours(x[:9].to(device), x[9:].to(device), k=2)
    ours, theirs = on_both(lambda device: torch.stack(both(device)))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("protocol", ["published", "library"])
def test_the_score_is_that_of_the_cpu(protocol):
    codes = torch.randn(N_IMAGES, 2, generator=torch.Generator().manual_seed(0))
    ours, theirs = on_both(lambda device: torch.tensor(factor_vae_score(codes.to(device), protocol)))
    assert ours == theirs


def test_rendered_images_are_those_of_the_cpu_and_are_made_on_the_device():
    index = torch.arange(0, N_IMAGES, 9973)
    source = Composed(RenderedShapes3D(side=16), index)
    ours, theirs = on_both(lambda device: source.to(device)[torch.arange(20).to(device)])
    assert torch.equal(ours, theirs)
    there, which = source.to(NAME), torch.arange(20).to(NAME)
    with watched() as notes:
        as_batch(there[which])
    assert notes == []

