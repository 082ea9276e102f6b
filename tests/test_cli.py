"The `vcae` command as a person meets it: one clear line and a non-zero exit for whatever is wrong."

import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import vcae_nb.book.pages as pages
from vcae_nb.book import cli
from vcae_nb.core import project_root, VcaeError
from vcae_nb.experiments import catalogue
from vcae_nb.measure.experiment import Experiment
from vcae_nb.method.models import Spec

VCAE = [sys.executable, "-m", "vcae_nb"]
TOY = dict(dataset="mog", network="mlp", z_dim=2, batch=200, steps=20)


def vcae(*words, cwd=None, **env):
    env = os.environ | {"PYTHONPATH": str(project_root())} | env
    words = [*VCAE, *map(str, words)]
    return subprocess.run(
        words, cwd=cwd or project_root(), env=env, capture_output=True, text=True
    )


def refused(*words, **env):
    "The one line that a refused command prints."
    done = vcae(*words, **env)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vcae: "), done.stderr
    return lines[0]


def invoke(*words):
    "The same in this process, where a refusal is an exception."
    return CliRunner().invoke(cli.app, list(map(str, words)))


def told(*words):
    "Why a command refuses, in this process."
    done = invoke(*words)
    assert isinstance(done.exception, VcaeError), done.output
    return str(done.exception)


def test_help_says_what_there_is():
    shown = vcae("-h").stdout
    commands = "run train status site verify fit list compare sample traverse export data".split()
    assert all(f"  {name} " in shown for name in commands)
    assert vcae("--version").stdout.startswith("vcae_nb 0")


def test_help_needs_neither_torch_nor_notebooks():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'nbdev', 'submitit']))\n"
        "import vcae_nb; from vcae_nb.book.cli import app; app(['run', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    options = "--profile --executor --jobs --max-requeues --slurm --anew --emit".split()
    assert all(option in done.stdout for option in options), done.stderr


LIGHT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def light(tmp_path):
    "An environment without what `.[book]` adds."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(project_root() / "settings.ini")
    asked = [config["DEFAULT"][f"{part}requirements"].split() for part in ("", "book_")]
    name = lambda word: re.split("[<>=]", word)[0].replace("-", "_")
    light, book = (set(map(name, part)) for part in asked)
    names = book - light - {"pyyaml"} | {"yaml"}
    (tmp_path / "light").mkdir()
    content = LIGHT.replace("PACKAGES", repr(names))
    (tmp_path / "light" / "sitecustomize.py").write_text(content)
    return {"PYTHONPATH": f"{tmp_path / 'light'}:{project_root()}"}


USE = """
from typer.testing import CliRunner
from vcae_nb.book.cli import app
fit = "fit mnist5k --width 0.015625 --z-dim 2 --steps 2"
for words in (fit, "list", "status", "run toy_mog --emit", "site", "train s.json --executor slurm"):
    done = CliRunner().invoke(app, words.split())
    print(words.split()[0], repr(done.exception))
"""


def test_a_light_install_serves_images_of_ones_own(light, tmp_path):
    "What needs more says so, by a missing module that `main` puts into words."
    (tmp_path / "s.json").write_text(json.dumps([TOY]))
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=os.environ | light, capture_output=True,
        text=True,
    )
    said = done.stdout.splitlines()
    assert said[:4] == ["fit None", "list None", "status None", "run None"], done.stderr
    assert all("ModuleNotFoundError" in line for line in said[4:]) and len(said) == 6


def test_a_package_that_is_not_installed_is_named(light):
    line = refused("site", **light)
    assert "this needs the package nb" in line and ".[book]" in line


@pytest.mark.parametrize(
    "words, message",
    [
        (["run", "toy_mgo"], "unknown experiment 'toy_mgo'.*Did you mean 'toy_mog'"),
        (["run", "--profile", "papr"], "unknown profile 'papr'"),
        (["run", "--seeds", "0"], "seeds must be a whole number from 1"),
        (["run", "toy_mog", "--all"], "leave out toy_mog, or leave out --all"),
        (["run", "toy_mog", "--device", "tpu9"], "device 'tpu9' is not available"),
        (["run", "toy_mog", "--executor", "slrum"], "unknown executor 'slrum'"),
        (
            ["run", "toy_mog", "--executor", "local", "--device", "cuda:1"],
            "GPUs are dealt out one to a run",
        ),
        (["run", "toy_mog", "--jobs", "0"], "jobs must be positive"),
        (["run", "toy_mog", "--mem", "inf"], "mem must be positive and finite"),
        (["run", "toy_mog", "--slurm", "a\ntouch x"], "NAME=VALUE in one line"),
        (["train", "nowhere.json"], "nowhere.json is missing"),
        (["status", "--profile", "big"], "unknown profile 'big'"),
        (["fit", "mog", "--set", "lr"], "--set takes NAME=VALUE"),
        (["fit", "mog", "--set", "latent=8"], "unknown setting 'latent'"),
        (["fit", "mog", "--model", "VEA"], "unknown model 'VEA'"),
        (["fit", "nothing.npy"], "nothing.npy is not there"),
        (["sample", "nothing"], "no run in .* begins with 'nothing'; there are .* such as"),
        (["compare", "nothing"], "no run in .* begins with 'nothing'"),
    ],
)
def test_wrong_words(words, message, tmp_path, monkeypatch):
    monkeypatch.setenv("VCAE_RUNS", str(tmp_path))
    assert re.search(message, told(*words))


def test_a_refusal_is_one_line():
    assert "unknown experiment 'toy_mgo'" in refused("run", "toy_mgo")


def test_a_wrong_option_is_explained():
    done = vcae("run", "--sedes", "3")
    assert done.returncode == 2 and "--sedes" in done.stderr and "Traceback" not in done.stderr


def test_folder_that_cannot_be_written():
    assert "cannot write /proc/vcae" in refused("run", "toy_mog", "--anew", VCAE_RUNS="/proc/vcae")


def test_damaged_weights(tmp_path):
    env = {"VCAE_RUNS": str(tmp_path / "runs"), "VCAE_RESULTS": str(tmp_path / "results")}
    (tmp_path / "specs.json").write_text(json.dumps([TOY]))
    assert vcae("train", tmp_path / "specs.json", **env).returncode == 0
    (weights,) = (tmp_path / "runs").glob("*/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    line = refused("train", tmp_path / "specs.json", **env)
    assert "weights.safetensors is missing or damaged: its SHA-256" in line
    assert weights.read_bytes() == content  # nothing is lost by looking


def test_one_of_a_list(tmp_path, monkeypatch):
    monkeypatch.setenv("VCAE_RUNS", str(tmp_path))
    (tmp_path / "specs.json").write_text(json.dumps([TOY | {"seed": n} for n in range(3)]))
    assert "there is no number 3" in told("train", tmp_path / "specs.json", "--index", "3")
    assert invoke("train", tmp_path / "specs.json", "--index", "1").exit_code == 0
    (made,) = tmp_path.glob("*/manifest.json")
    assert made.parent.name == Spec(**TOY, seed=1).key


def test_run_all(tmp_path, monkeypatch):
    "A run that fails leaves its experiment out; the others are executed, then the site is built."
    seeds = dict(smoke=1, cpu=1, paper=1)
    grids = {"fails": [TOY, TOY | {"lr": 1e30}], "shares": [TOY], "breaks": [TOY | {"lr": 0.01}]}
    made = {n: Experiment(n, "6", seeds, lambda p, g=g: g) for n, g in grids.items()}
    done = []

    def execute_book(profile, parameters=None, names=None):
        done.extend(names)
        if names == ["breaks"]:
            raise VcaeError("212_breaks.ipynb failed in cell 3: ValueError: no")

    monkeypatch.setenv("VCAE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("VCAE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(catalogue, "EXPERIMENTS", made)
    monkeypatch.setattr(cli, "site", lambda profile: done.append(f"site {profile}"))
    monkeypatch.setattr(pages, "execute_book", execute_book)
    run = invoke("run", "--all", "--device", "cpu")
    assert done == ["shares", "breaks", "site smoke"], run.output
    assert "3 runs of fails, shares, breaks; 0 are done already" in run.stdout
    assert "fails is left out: 1 of its runs are not done" in run.stdout
    assert "smaller lr" in str(run.exception) and "failed in cell 3" in str(run.exception)
    again = invoke("run", "shares")
    assert "1 runs of shares; 1 are done already" in again.stdout and "[1/" not in again.stdout


def test_anew_sets_old_results_aside_and_brings_them_back(tmp_path, monkeypatch):
    seeds = dict(smoke=1, cpu=1, paper=1)
    monkeypatch.setenv("VCAE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("VCAE_RESULTS", str(tmp_path))
    experiment = Experiment("toy", "6", seeds, lambda profile: [TOY])
    monkeypatch.setattr(catalogue, "EXPERIMENTS", {"toy": experiment})
    experiment.run("smoke")
    results, wanted = tmp_path / "smoke" / "toy.json", []
    before = results.read_text()
    assert invoke("run", "toy", "--emit").stdout == "[\n\n]\n"  # its row counts

    def execute_book(profile, parameters=None, names=None):
        wanted.append(results.is_file())
        if len(wanted) == 1:
            raise VcaeError("no")

    monkeypatch.setattr(pages, "execute_book", execute_book)
    assert told("run", "toy", "--anew") == "no"
    assert wanted == [False] and results.read_text() == before
    assert invoke("run", "toy").exit_code == 0 and wanted[1:] == [True]


def test_status_of_experiments(tmp_path):
    words = ["status", "latent_space", "--profile", "paper", "--seeds", "2"]
    lines = json.loads(vcae(*words, "--json", VCAE_RUNS=str(tmp_path)).stdout)
    assert len(lines) == 16 and {line["state"] for line in lines} == {"missing"}
    shown = vcae(*words, VCAE_RUNS=str(tmp_path)).stdout.splitlines()
    assert len(shown) == 17 and "paper: 16 missing; page " in shown[-1]


def test_everything_of_ones_own_works_from_any_folder(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "own.npy", images)
    words = ["fit", "own.npy", "--width", "0.015625", "--z-dim", "2", "--steps", "3", "-o", "runs"]
    for model in ("VCAE", "cWAE"):
        done = vcae(*words, "--model", model, cwd=tmp_path)
        assert done.returncode == 0 and "squared error" in done.stdout, done.stderr
    status = vcae("status", cwd=tmp_path)
    own = [line.split() for line in status.stdout.splitlines() if line.startswith("own ")]
    assert [line[1:3] for line in own] == [["done", "3/3"]] * 2, status.stderr
    listed = vcae("list", cwd=tmp_path).stdout
    assert all(word in listed for word in ("VCAE-own-", "cWAE-own-", "z_dim=2", "total variance"))
    table = vcae("compare", "VCAE", "cWAE", cwd=tmp_path).stdout
    assert "test_sse_mean" in table and "model" in table and "z_dim" not in table
    words = ["sample", "VCAE", "--distribution", "prior", "-n", "3"]
    assert vcae(*words, "--folder", "new", cwd=tmp_path).returncode == 0
    made = sorted(p.name for p in (tmp_path / "new").iterdir())
    assert made == [f"0000{i}.png" for i in range(3)]
    assert "names no format" in vcae(*words, "-o", "s.pgn", cwd=tmp_path).stderr
    assert "by --data" in vcae("sample", "VCAE", cwd=tmp_path).stderr  # the array has no name


def test_a_network_of_ones_own_is_found_in_the_working_folder(tmp_path):
    "Also by the installed script, which has only its own folder on the path."
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def pair(shape, z_dim, outputs, width):\n"
        "    return nn.Linear(*shape, outputs), nn.Linear(z_dim, *shape)\n"
    )
    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(size=(40, 5)))
    script = "import sys; sys.path.remove(''); from vcae_nb.book.cli import main; main()"
    words = "fit own.npy --z-dim 2 --steps 2 --set network=mine:pair".split()
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(project_root()), "VCAE_RUNS": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
