"The `vcae` command as a person meets it: one clear line and a non-zero exit for whatever is wrong."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from vcae_nb import batch, cli
from vcae_nb.core import project_root, VcaeError
from vcae_nb.method.models import Spec

VCAE = Path(sys.executable).parent / "vcae"


def vcae(*words, **env):
    return subprocess.run([VCAE, *words], cwd=project_root(), env=os.environ | env, capture_output=True, text=True)


def refused(*words, **env):
    "The one line that a refused command prints."
    done = vcae(*words, **env)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vcae: "), done.stderr
    return lines[0]


def test_help_says_what_there_is():
    out = vcae("--help").stdout
    assert all(word in out for word in ("run", "status", "site"))
    assert "--profile" in vcae("run", "--help").stdout


@pytest.mark.parametrize(
    "words, message",
    [
        (["run", "toy_mgo"], "unknown experiment 'toy_mgo'"),
        (["run", "--profile", "papr"], "unknown profile 'papr'"),
        (["run", "--seeds", "0"], "seeds must be a whole number from 1"),
        (["run", "toy_mog", "--device", "tpu9"], "device 'tpu9' is not available"),
        (["run", "toy_mog", "--executor", "slrum"], "unknown executor 'slrum'"),
        (["run", "toy_mog", "--executor", "local", "--device", "cuda:1"], "GPUs are dealt out one to a job"),
        (["run", "toy_mog", "--jobs", "0"], "jobs must be positive"),
        (["train", "nowhere.json"], "cannot read nowhere.json"),
        (["status", "--profile", "big"], "unknown profile 'big'"),
    ],
)
def test_wrong_words(words, message, tmp_path):
    assert message in refused(*words, VCAE_RUNS=str(tmp_path))


def test_a_wrong_option_is_explained():
    done = vcae("run", "--sedes", "3")
    assert done.returncode == 2 and "--sedes" in done.stderr and "Traceback" not in done.stderr


def test_damaged_data(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x10")
    line = refused("run", "reduced_mnist", "--profile", "cpu", VCAE_DATA=str(tmp_path), VCAE_RUNS=str(tmp_path / "runs"))
    assert "is damaged; delete it and fetch it again" in line


def test_folder_that_cannot_be_written():
    line = refused("run", "toy_mog", VCAE_RUNS="/proc/vcae")
    assert "cannot write /proc/vcae" in line


def test_damaged_weights(tmp_path):
    env = {"VCAE_RUNS": str(tmp_path / "runs"), "VCAE_RESULTS": str(tmp_path / "results")}
    script = "from vcae_nb.experiments.toy_mog import specs; from vcae_nb.method.training import fit; print(fit(specs('smoke', 1)[0]).folder)"
    made = subprocess.run([sys.executable, "-c", script], cwd=project_root(), env=os.environ | env, capture_output=True, text=True, check=True)
    weights = Path(made.stdout.strip()) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert "weights.safetensors is missing or damaged: its SHA-256" in refused("run", "toy_mog", **env)
    assert weights.read_bytes() == content  # nothing is lost by looking


def test_status_as_json(tmp_path):
    done = vcae("status", "reduced_mnist", "--profile", "paper", "--json", VCAE_RUNS=str(tmp_path))
    lines = json.loads(done.stdout)
    assert len(lines) == 35 and {line["state"] for line in lines} == {"missing"} and {line["page"] for line in lines} == {"missing"}


TOY = Spec(dataset="mog", network="mlp", z_dim=2, batch=200, steps=20)


def test_run_all(tmp_path, monkeypatch):
    "A run that fails leaves its experiments out; the others are executed, then the site is built, and what is wrong stands at the end."
    grids = {"fails": [TOY, Spec(**TOY.settings | {"lr": 1e30})], "shares": [TOY], "breaks": [Spec(**TOY.settings | {"seed": 1})]}
    done = []

    def execute_book(profile, parameters=None, names=None):
        done.extend(names)
        if names == ["breaks"]:
            raise VcaeError("12_breaks.ipynb failed in cell 3: ValueError: no")

    monkeypatch.setenv("VCAE_RUNS", str(tmp_path))
    monkeypatch.setattr(cli, "experiments", lambda: list(grids))
    monkeypatch.setattr(cli, "grid", lambda name, profile, seeds: (grids[name], 1))
    monkeypatch.setattr(cli, "site", lambda profile: done.append(f"site {profile}"))
    monkeypatch.setattr(batch, "execute_book", execute_book)
    run = CliRunner().invoke(cli.app, ["run", "--all", "--device", "cpu"])
    assert done == ["shares", "breaks", "site smoke"]
    assert "3 runs of fails, shares, breaks; 0 are done already" in run.stdout
    assert "fails is left out: 1 of its 2 runs are not done" in run.stdout
    assert isinstance(run.exception, VcaeError) and "smaller lr" in str(run.exception) and "failed in cell 3" in str(run.exception)
    again = CliRunner().invoke(cli.app, ["run", "shares"])
    assert "1 runs of shares; 1 are done already" in again.stdout and "[1/" not in again.stdout


def test_emitted_job_runs(tmp_path):
    "What is in the manifest is what a pod would do: the list, and the command with its number."
    done = vcae("run", "toy_mog", "--emit", "k8s", "--image", "here:1", "--claim", "disk", "--device", "cpu", "--cpus", "1")
    config_map, job = yaml.safe_load_all(done.stdout)
    (tmp_path / "specs.json").write_text(config_map["data"]["specs.json"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    replaced = {"/specs/specs.json": str(tmp_path / "specs.json"), "$(INDEX)": "3"}
    words = [replaced.get(word, word) for word in container["command"][1:]]
    ran = vcae(*words, VCAE_RUNS=str(tmp_path / "runs"))
    assert ran.returncode == 0 and job["spec"]["completions"] == 4, ran.stderr
    assert [p.parent.name for p in (tmp_path / "runs").glob("*/manifest.json")] == [Spec.from_dict(json.loads(config_map["data"]["specs.json"])[3]).key]
    assert "there is no number 4" in refused(*[{"3": "4"}.get(word, word) for word in words], VCAE_RUNS=str(tmp_path / "runs"))
