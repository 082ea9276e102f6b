"What a notebook cannot show of the engine: jobs that are stopped or killed, GPUs dealt out, and SLURM's commands played by stand-ins."

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest

from vcae_nb import engine
from vcae_nb.core import project_root, VcaeError
from vcae_nb.book.engine import (
    queued_runs, requeue_if_preempted, Resources, run_state, specs_json, submit, Training,
)
from vcae_nb.method.models import Spec
from vcae_nb.kept import read_log

VCAE = Path(sys.executable).parent / "vcae"
TOY = Spec(dataset="mog", network="mlp", z_dim=2, batch=200, steps=60)
LONG = replace(TOY, steps=10**6)
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # jobs of this file run where it cannot be imported


def start(folder, *specs):
    "`vcae train --executor local` of some specs, in a process group of its own."
    (folder / "specs.json").write_text(specs_json(specs))
    words = [VCAE, "train", folder / "specs.json", "--executor", "local", "--cpus", "1", "--device", "cpu"]
    env = os.environ | {"VCAE_RUNS": str(folder / "runs")}
    return subprocess.Popen(words, cwd=project_root(), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def step_of(folder, spec):
    return max((entry["step"] for entry in read_log(folder / "runs" / spec.key / "log.jsonl")), default=0)


def processes(folder):
    "Processes that work for the runs under a folder."
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(folder).encode() in word for word in words) and b"submitit.core._submit" in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number, to_all, code", [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)])
def test_local_jobs_stop_in_good_order(number, to_all, code, tmp_path):
    job = start(tmp_path, LONG)
    wait_for(lambda: step_of(tmp_path, LONG) >= 100)
    os.killpg(job.pid, number) if to_all else os.kill(job.pid, number)  # Ctrl-C reaches the whole group
    out, _ = job.communicate(timeout=120)
    assert job.returncode == code and "the same call goes on from there" in out, out
    state = run_state(LONG, tmp_path / "runs")
    assert state["state"] == "stopped" and state["step"] >= 100 and not processes(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_killed_job_is_reported(tmp_path):
    job = start(tmp_path, LONG, replace(LONG, lr=1e30))
    wait_for(lambda: step_of(tmp_path, LONG) >= 50)
    wild = replace(LONG, lr=1e30)
    wait_for(lambda: run_state(wild, tmp_path / "runs")["state"] == "failed")
    wait_for(lambda: len(processes(tmp_path)) == 1)
    os.kill(processes(tmp_path)[0], signal.SIGKILL)
    out, _ = job.communicate(timeout=120)
    assert job.returncode == 1 and "its job was killed or stopped; the same call goes on from step" in out and "try a smaller lr" in out, out
    (log,) = (line.split("(log: ")[1].split(")")[0] for line in out.splitlines() if line.startswith("  its job was killed"))
    assert (project_root() / log).is_file()


class Probe(Training):
    "A job that notes which GPUs it sees."

    def __call__(self):
        import os
        import time
        from pathlib import Path

        Path(self.root, f"seen-{self.settings['seed']}").write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {time.monotonic()}")
        time.sleep(1)
        Path(self.root, f"left-{self.settings['seed']}").write_text(str(time.monotonic()))
        return "a probe trains nothing"


def test_gpus_are_dealt_out_one_to_a_job(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "local_gpus", lambda device: [3, 5])
    jobs = [Probe(replace(TOY, seed=n), tmp_path, "cpu") for n in range(3)]
    assert [o.reason.split(" (log")[0] for o in engine.local(jobs, Resources())] == ["a probe trains nothing"] * 3
    seen = [(tmp_path / f"seen-{n}").read_text().split() for n in range(3)]
    left = [float((tmp_path / f"left-{n}").read_text()) for n in range(3)]
    assert {gpu for gpu, _ in seen} == {"3", "5"}
    for a in range(3):
        for b in range(a):  # two that share a GPU do not overlap
            assert seen[a][0] != seen[b][0] or float(seen[a][1]) >= left[b] or float(seen[b][1]) >= left[a]


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    "Stand-ins for SLURM's commands: what was called is in `called`, what is queued in `queue`."
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {
        "sbatch": f'echo "sbatch $*" >> {folder}/called; test -e {folder}/refuse && {{ echo "sbatch: error: invalid partition specified: gup" >&2; exit 1; }}; '
        f"cp $1 {folder}/script; n=$(grep -c ^sbatch {folder}/called); echo Submitted batch job $n",
        "squeue": f"cat {folder}/queue",
        "scontrol": f'echo "scontrol $*" >> {folder}/called',
        "srun": "exit 1",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "called").touch()
    (folder / "queue").touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return folder


def called(folder, command):
    return [line for line in (folder / "called").read_text().splitlines() if line.startswith(command)]


def test_nothing_is_submitted_twice(fake_slurm, tmp_path, capsys):
    jobs = [Training(replace(TOY, seed=n), tmp_path, "cpu") for n in range(3)]
    assert [job.job_id for _, job in submit(jobs[:2], Resources("cpu", cpus=2, options={"account": "vision"}))] == ["1_0", "1_1"]
    script = (fake_slurm / "script").read_text()
    for line in ("--array=0-1%2", "--cpus-per-task=2", "--requeue", "--account=vision", "--time=240", "--signal=USR2@90"):
        assert f"#SBATCH {line}\n" in script
    assert "gpus" not in script
    (fake_slurm / "queue").write_text("1_0 RUNNING\n1_1 PENDING\n")
    assert queued_runs(tmp_path) == {jobs[0].spec.key: "RUNNING", jobs[1].spec.key: "PENDING"}
    assert [job.job_id for _, job in submit(jobs[:2], Resources("cpu"))] == ["1_0", "1_1"] and len(called(fake_slurm, "sbatch")) == 1
    (fake_slurm / "queue").write_text("1_1 PENDING\n")  # the first has ended
    assert [job.job_id for _, job in submit(jobs, Resources("auto"))] == ["1_1", "2_0", "2_1"]
    assert "#SBATCH --gpus-per-node=1\n" in (fake_slurm / "script").read_text()
    assert "2 jobs submitted to SLURM, 1 are there already" in capsys.readouterr().out


def test_slurm_refuses(fake_slurm, tmp_path):
    (fake_slurm / "refuse").touch()
    with pytest.raises(VcaeError, match="SLURM refuses the jobs: .*invalid partition specified: gup.*--partition"):
        submit([Training(TOY, tmp_path)], Resources(partition="gup"))
    (fake_slurm / "squeue").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(VcaeError, match="SLURM does not answer"):
        submit([Training(TOY, tmp_path)], Resources())
    assert queued_runs(tmp_path) == {}


def test_a_job_that_left_without_a_word(fake_slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.time, "sleep", lambda seconds: None)
    (outcome,) = engine.slurm([Training(TOY, tmp_path)], Resources("cpu"))
    assert outcome.spec == TOY and "its job was killed or stopped; the same call goes on from step 0 of 60" in outcome.reason and "_log.out" in outcome.reason


@pytest.mark.parametrize("state, requeued", [("RUNNING", ["scontrol requeue 12"]), ("CANCELLED", []), ("PENDING", []), ("", [])])
def test_only_a_preempted_job_requeues_itself(fake_slurm, monkeypatch, state, requeued):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    (fake_slurm / "queue").write_text(state)
    requeue_if_preempted()  # the user's own allocation, say
    assert called(fake_slurm, "scontrol") == []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    requeue_if_preempted()
    assert called(fake_slurm, "scontrol") == requeued


STATES = """
import sys
from vcae_nb import models
from vcae_nb.book.engine import run_state
from vcae_nb.method.models import Spec
from vcae_nb.method.runs import fit
assert models.__file__.startswith(sys.argv[1])
specs = [Spec(model=model, dataset="mog", network="mlp", z_dim=2, batch=200, steps=20) for model in ("VCAE", "cWAE")]
if sys.argv[2] == "fit":
    [fit(spec) for spec in specs]
print(*[run_state(spec)["state"] for spec in specs])
"""


def test_what_makes_a_run_stale(tmp_path):
    "Prose does not; the code of a model does, and only for the models that use it; the engine and the command line do not."
    package = tmp_path / "vcae_nb"
    shutil.copytree(project_root() / "vcae_nb", package, ignore=shutil.ignore_patterns("__pycache__"))
    env = os.environ | {"PYTHONPATH": str(tmp_path), "VCAE_RUNS": str(tmp_path / "runs")}

    def states(what="look"):
        done = subprocess.run([sys.executable, "-c", STATES, str(tmp_path), what], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def edit(module, old, new):
        path = package / f"{module}.py"
        before = path.read_text()
        assert before.count(old) == 1
        path.write_text(before.replace(old, new))

    assert states("fit") == ["done", "done"]
    penalty = "    return total_variance_penalty(code.z, spec.v)"
    edit("models", '"VCAE\'s penalty (7) on the noisy code."', '"Other words."')
    edit("models", penalty, f"    # a comment\n{penalty}  # and another")
    for module in ("engine", "cli", "batch"):
        (package / f"{module}.py").write_text((package / f"{module}.py").read_text() + "\n\ndef added():\n    return 1\n")
    assert states() == ["done", "done"]
    edit("models", penalty, penalty.replace("spec.v)", "2 * spec.v)"))
    assert states() == ["stale", "done"]
