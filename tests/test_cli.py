"The `vcae` command as a person meets it: one clear line and a non-zero exit for whatever is wrong."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vcae_nb.core import project_root

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
    script = "from vcae_nb.toy_mog import specs; from vcae_nb.training import fit; print(fit(specs('smoke', 1)[0]).folder)"
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
    assert len(lines) == 35 and {line["state"] for line in lines} == {"missing"}
