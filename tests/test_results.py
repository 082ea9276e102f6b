"What verdicts are worth, and that results are read as they were written or not at all."

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vcae_nb.core import results_path, VcaeError
from vcae_nb.experiments.catalogue import EXPERIMENTS, PRIMARY
from vcae_nb.measure.experiment import best_results, Experiment, read_results
from vcae_nb.measure.results import Claim, compare, holm, judge
from vcae_nb.method.densities import DENSITIES

TRIALS = 600


def rate(verdict, mean, margin=None, alike=False, n=5):
    "How often differences of this mean and standard deviation 1 get a verdict."
    draws = np.random.default_rng(0).normal(mean, 1.0, (TRIALS, n))
    return np.mean([judge(d, margin, alike)["verdict"] == verdict for d in draws])


def test_without_an_effect_a_false_verdict_is_rare():
    assert 0.01 < rate("reproduced", 0.0) < 0.045
    assert 0.01 < rate("contradicted", 0.0) < 0.045
    assert rate("undecided", 0.0) > 0.92


def test_a_difference_as_large_as_the_margin_is_rarely_called_equal():
    assert rate("equal", 2.0, margin=2.0) < 0.045
    assert rate("reproduced", 2.0, margin=2.0, alike=True) < 0.045
    assert rate("contradicted", 2.0, margin=2.0, alike=True) < 0.045


def test_where_there_is_something_to_find_it_is_found():
    assert rate("reproduced", 3.0) > 0.95
    assert rate("contradicted", -3.0) > 0.95
    assert rate("equal", 0.0, margin=3.0) > 0.95
    assert rate("contradicted", 9.0, margin=3.0, alike=True) > 0.95


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_runs_decide_nothing(n):
    assert rate("undecided", 50.0, margin=1.0, n=n) == 1
    assert rate("undecided", 0.0, margin=100.0, alike=True, n=n) == 1


def test_p_is_below_five_percent_exactly_where_there_is_a_verdict():
    for d in np.random.default_rng(1).normal(1.0, 1.0, (100, 4)):
        for margin, alike in ((None, False), (1.5, False), (1.5, True)):
            judged = judge(d, margin, alike)
            assert (judged["p"] < 0.05) == (judged["verdict"] != "undecided"), judged


def family(ps, primary=True):
    "Claims that were reproduced with these p."
    made = [Claim(f"c{i}", "1", "", "", "", "reproduced", p=p) for i, p in enumerate(ps)]
    return [replace(c, primary=primary) for c in made]


def test_holm_lets_one_false_verdict_pass_in_twenty_families():
    ps = np.random.default_rng(2).uniform(size=(TRIALS, 6))
    wrong = [any(c.verdict == "reproduced" for c in holm(family(p))) for p in ps]
    assert 0.025 < np.mean(wrong) < 0.08


def test_holm_stops_at_the_first_that_fails_and_leaves_the_exploratory_alone():
    verdicts = [c.verdict for c in holm(family([0.04, 0.001, 0.03]))]
    assert verdicts == ["undecided", "reproduced", "undecided"]
    assert {c.verdict for c in holm(family([0.04, 0.9], primary=False))} == {"reproduced"}


def made_up(seeds=4):
    "A table of every experiment's settings at cpu scale, with numbers that were made up."
    tables = {}
    for name, experiment in EXPERIMENTS.items():
        rng, lines = np.random.default_rng(3), []
        for spec in experiment.specs("cpu", seeds):
            numbers = {m: rng.uniform(1, 2) for m in METRICS}
            lines.append(spec.settings | numbers | {"dataset_sha256": spec.dataset, "train_items": 600})
        tables[name] = pd.DataFrame(lines)
    return tables


METRICS = [f"{split}_{m}" for split in ("train", "test") for m in ("sse_noisy", "sse_mean", "total_variance", "mmd")]
METRICS += ["gaussian_distance", "gaussian_distance_after_flow", "stray_prior", "stray_flow", "early_sse_noisy"]
METRICS += ["noise_cost_train", "noise_cost_test", "features_alive", "variance_error", "nats_above_floor_mean", "modes_right"]
METRICS += ["score_published", "shape_rank", "shape_rank_null", "noise_cost", "rate", "noise_share", "early_sse_mean"]
METRICS += [f"{m}_by_{kind}" for m in ("fd", "nll") for kind in (*DENSITIES, "maf-longer", "gmm-50-longer")]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_claims_are_a_pure_function_of_the_table(name, monkeypatch, tmp_path):
    monkeypatch.setenv("VCAE_RESULTS", str(tmp_path))
    frame = made_up()[name].assign(dataset_sha256="0")
    before = frame.copy(deep=True)
    first = EXPERIMENTS[name].claims(frame)
    pd.testing.assert_frame_equal(frame, before)
    mixed = frame.sample(frac=1, random_state=0)
    for a, b in zip(first, EXPERIMENTS[name].claims(mixed), strict=True):
        assert (a.id, a.verdict, a.n) == (b.id, b.verdict, b.n)
        assert a.difference == pytest.approx(b.difference)
    assert len({c.id for c in first}) == len(first)
    assert all(c.id.startswith(f"{name}.") and c.section and c.unit for c in first)
    assert {c.id for c in first if c.primary} == {id for id in PRIMARY if id.startswith(f"{name}.")}


TRIAL = Experiment(
    "trial",
    section="6.1",
    seeds={"smoke": 1, "cpu": 3, "paper": 3},
    grid=lambda profile: [
        dict(model=m, dataset="mog", network="mlp", z_dim=2, steps=5) for m in ("VCAE", "cWAE")
    ],
    claims=lambda frame: [
        compare("trial.error", "6.1", "A.", frame, "test_sse_mean", {"model": "VCAE"}, {"model": "cWAE"})
    ],
)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("VCAE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("VCAE_RUNS", str(tmp_path / "runs"))


def test_a_damaged_results_file_is_named_made_again_and_never_shown(elsewhere, capsys):
    first, path = TRIAL.run("cpu", device="cpu"), results_path("trial", "cpu")
    whole = path.read_text()
    path.write_text(whole.replace('"seed": 2', '"seed": 3', 1))
    with pytest.raises(VcaeError, match="trial.json is damaged; `vcae run trial --profile cpu`"):
        read_results("trial", "cpu")
    with pytest.raises(VcaeError, match="trial.json is damaged"):
        best_results()
    capsys.readouterr()
    assert TRIAL.run("cpu", device="cpu").rows == first.rows
    assert "trial.json is damaged" in capsys.readouterr().out and path.read_text() == whole
    path.write_text(whole[: len(whole) // 2])
    assert TRIAL.run("cpu", device="cpu").claims == first.claims and path.read_text() == whole


def test_only_what_is_missing_is_trained(elsewhere, monkeypatch, tmp_path):
    few = TRIAL.run("cpu", 1, device="cpu")
    monkeypatch.setenv("VCAE_RUNS", str(tmp_path / "other"))
    more = TRIAL.run("cpu", 2, device="cpu")
    assert more.rows[:2] == few.rows and len(list((tmp_path / "other").glob("*/manifest.json"))) == 2
    TRIAL.run("cpu", 1, device="cpu", anew=True)
    assert len(list((tmp_path / "other").glob("*/manifest.json"))) == 4


def test_results_of_before_the_redesign_are_read_as_texts(elsewhere):
    old = dict(id="toy.x", statement="A.", paper="1", ours="2", verdict="not reproduced")
    path = results_path("trial", "cpu")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dict(experiment="trial", profile="cpu", rows=[], claims=[old])))
    (claim,) = read_results("trial", "cpu").claims
    assert (claim.says, claim.ours, claim.verdict, claim.interval) == ("A.", "2", "contradicted", "")
