"Runs that are killed, stopped or started twice end where an undisturbed one ends, bit for bit."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vcae_nb.kept import checkpoints, read_log

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from vcae_nb.method.models import Spec
from vcae_nb.method.runs import fit
model, root = sys.argv[1:]
sigma = 0.2 if model == "VCAE" else None
units = 16 if model == "FactorVAE" else None  # a small discriminator, which is resumed too
spec = Spec(model=model, dataset="reduced-mnist5k", z_dim=2, width=1 / 64, sigma=sigma, tc_units=units, batch=50, steps=400, eval_every=100)
print(fit(spec, root=root, checkpoint_seconds=0).folder)
"""


def start(model, root, **more):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, model, str(root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def finish(model, root):
    process = start(model, root)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return Path(out.splitlines()[-1])


def logged(root):
    "The last step in the log of the only run under `root`."
    logs = list(Path(root).glob("*/log.jsonl"))
    lines = logs[0].read_text().splitlines() if logs else []
    try:
        return json.loads(lines[-1])["step"] if lines else 0
    except ValueError:
        return 0


def wait_for_step(root, step, process):
    deadline = time.monotonic() + 120
    while logged(root) < step:
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.002)


def outcome(folder):
    "What a run leaves behind, without the times."
    manifest = json.loads((folder / "manifest.json").read_text())
    log = [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(folder / "log.jsonl")]
    return manifest["files"]["weights.safetensors"], manifest["metrics"], log


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return {model: outcome(finish(model, tmp_path_factory.mktemp(model))) for model in ("VCAE", "FactorVAE")}


@pytest.mark.parametrize("model", ["VCAE", "FactorVAE"])
def test_killed_at_several_points(model, tmp_path, undisturbed):
    for step in (1, 50, 150, 300):
        process = start(model, tmp_path)
        if step == 1:
            while not list(tmp_path.glob("*/spec.json")):  # before its first step
                time.sleep(0.005)
        else:
            wait_for_step(tmp_path, step, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not list(tmp_path.glob("*/manifest.json"))
    folder = finish(model, tmp_path)
    assert outcome(folder) == undisturbed[model]
    assert sorted(p.name for p in folder.iterdir()) == ["log.jsonl", "manifest.json", "spec.json", "weights.safetensors"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_good_order(number, code, tmp_path, undisturbed):
    process = start("VCAE", tmp_path)
    wait_for_step(tmp_path, 100, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code and "the same call goes on from there" in out
    (folder,) = tmp_path.glob("*/spec.json")
    newest = checkpoints(folder.parent)[-1]
    assert int(newest.name.split("-")[1]) >= 100
    # the number of the step is under the digest: a name that lies changes nothing
    newest.rename(newest.with_name(newest.name.replace(newest.name.split("-")[1], "000000900")))
    assert outcome(finish("VCAE", tmp_path)) == undisturbed["VCAE"]


def test_two_processes_never_share_a_run(tmp_path, undisturbed):
    first = start("VCAE", tmp_path)
    wait_for_step(tmp_path, 50, first)
    second = start("VCAE", tmp_path)
    out = [p.communicate(timeout=300)[0] for p in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), out
    assert "waiting for another process" in out[1] and "waiting" not in out[0]
    assert outcome(Path(out[1].splitlines()[-1])) == undisturbed["VCAE"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to make a small disk")
def test_full_disk_keeps_what_is_good(tmp_path, undisturbed):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        ballast = disk / "ballast"
        process = start("VCAE", disk)
        wait_for_step(disk, 100, process)
        with ballast.open("wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"\0" * 4096)
            except OSError:
                pass
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 1 and "VcaeError" in out and "full" in out, out
        assert not list(disk.glob("*/manifest.json"))
        ballast.unlink()
        assert outcome(finish("VCAE", disk)) == undisturbed["VCAE"]
    finally:
        subprocess.run(["umount", disk], check=True)
