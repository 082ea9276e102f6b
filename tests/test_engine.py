"What a notebook cannot show of the engine: jobs stopped or killed, GPUs dealt out, SLURM."

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import vcae_nb.book.slurm as slurm
from vcae_nb.book import engine
from vcae_nb.book.engine import Job, Outcome, read_specs, run_state, specs_json, train_all
from vcae_nb.book.options import Resources
from vcae_nb.core import project_root, VcaeError
from vcae_nb.kept import read_log
from vcae_nb.method.models import Spec
from vcae_nb.method.runs import fit

VCAE = [sys.executable, "-m", "vcae_nb"]
TOY = Spec(dataset="mog", network="mlp", z_dim=2, batch=200, steps=60)
LONG = replace(TOY, steps=10**6)
in_linux = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")


def start(folder, *specs):
    "`vcae train --executor local` of some specs, in a process group of its own."
    (folder / "specs.json").write_text(specs_json(specs))
    words = [*VCAE, "train", folder / "specs.json", "--executor", "local", "--cpus", "1"]
    return subprocess.Popen(
        [*words, "--device", "cpu"],
        cwd=project_root(), env=os.environ | {"VCAE_RUNS": str(folder / "runs")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )


def wait_for(condition, job, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def step_of(folder, spec):
    log = read_log(folder / "runs" / spec.key / "log.jsonl")
    return max((entry["step"] for entry in log), default=0)


def processes(folder):
    "Processes that train under a folder, beside the one that started them."
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        inside = any(str(folder / "runs").encode() in word for word in words)
        if inside and b"train" in words:
            found.append(int(path.parent.name))
    return found


@in_linux
@pytest.mark.parametrize(
    "number, to_all, code", [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)]
)
def test_local_jobs_stop_in_good_order(number, to_all, code, tmp_path):
    job = start(tmp_path, LONG)
    wait_for(lambda: step_of(tmp_path, LONG) >= 100, job)
    if to_all:  # Ctrl-C reaches the whole group
        os.killpg(job.pid, number)
    else:
        os.kill(job.pid, number)
    out, _ = job.communicate(timeout=120)
    assert job.returncode == code and "the same call goes on from there" in out, out
    state = run_state(LONG, tmp_path / "runs")
    assert state["state"] == "stopped" and state["step"] >= 100 and not processes(tmp_path)


@in_linux
def test_killed_job_is_reported(tmp_path):
    wild = replace(LONG, lr=1e30)
    job = start(tmp_path, LONG, wild)
    wait_for(lambda: step_of(tmp_path, LONG) >= 50, job)
    wait_for(lambda: run_state(wild, tmp_path / "runs")["state"] == "failed", job)
    wait_for(lambda: len(processes(tmp_path)) == 1, job)
    os.kill(processes(tmp_path)[0], signal.SIGKILL)
    out, _ = job.communicate(timeout=120)
    assert job.returncode == 1 and "try a smaller lr" in out, out
    killed = "its job was killed or stopped; the same call goes on from step"
    (line,) = (line for line in out.splitlines() if line.startswith(f"  {killed}"))
    assert Path(line.split("(log: ")[1].rstrip(")")).is_file()


def test_gpus_are_dealt_out_one_to_a_job(tmp_path, monkeypatch):
    seen, left, running = {}, [], []

    class Process:
        "Ends when it is looked at for the third time."

        def __init__(self, job, folder, gpu):
            assert gpu not in [p.gpu for p in running if p.looks < 3]
            self.gpu, self.looks, self.returncode = gpu, 0, 1
            (folder / f"{job.spec.key}.log").write_text("vcae: a stand-in trains nothing\n")
            seen[job.spec.seed] = gpu
            running.append(self)

        def poll(self):
            self.looks += 1
            return 1 if self.looks >= 3 else None

    monkeypatch.setattr(engine, "_local_gpus", lambda device: [3, 5])
    monkeypatch.setattr(engine, "_start", Process)
    jobs = [Job(replace(TOY, seed=n).settings, str(tmp_path), "cpu") for n in range(4)]
    left = [outcome.reason.split(" (log")[0] for outcome in engine.local(jobs, Resources())]
    assert left == ["a stand-in trains nothing"] * 4
    assert sorted(seen.values()) == [3, 3, 5, 5]


@pytest.mark.parametrize(
    "error, says",
    [
        (MemoryError(), "MemoryError"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (TypeError("no"), "TypeError: no"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (RuntimeError("size mismatch\nand more"), "RuntimeError: size mismatch"),
    ],
)
def test_one_bad_run_never_ends_the_grid(error, says, tmp_path, monkeypatch):
    def fit_or_fail(spec, **more):
        if spec.seed == 0:
            raise error
        return fit(spec, **more)

    monkeypatch.setattr(engine, "fit", fit_or_fail)
    grid = [TOY, replace(TOY, seed=1)]
    outcomes = list(train_all({"grid": grid}, resources=Resources("cpu"), root=tmp_path))
    assert says in outcomes[0].reason and "\n" not in outcomes[0].reason
    assert outcomes[1] == Outcome(grid[1])


def test_a_folder_that_cannot_be_read_is_a_state(tmp_path, monkeypatch):
    folder = fit(TOY, root=tmp_path).folder
    good = (folder / "manifest.json").read_text()
    for damaged in ("{", "[" * 10**5, "[1]", "{}", good.replace('"z_dim": 2', '"z_dim": 6')):
        (folder / "manifest.json").write_text(damaged)
        assert run_state(TOY, tmp_path)["state"] in ("failed", "stale", "done")
        others = [TOY, replace(TOY, seed=1)]
        made = {o.spec: o.reason for o in train_all({"a": others}, root=tmp_path)}
        assert made[TOY] and not made[others[1]]
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    assert run_state(TOY, tmp_path)["state"] in ("failed", "stopped")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_a_state_where_locks_do_not_work(number, tmp_path, monkeypatch):
    class NoLock:
        def __init__(self, *words, **options):
            pass

        def __enter__(self):
            raise OSError(number, os.strerror(number))

        def __exit__(self, *_):
            pass

    folder = fit(TOY, root=tmp_path).folder
    (folder.parent / f".{folder.name}.lock").touch()
    monkeypatch.setattr(engine, "FileLock", NoLock)
    assert run_state(TOY, tmp_path)["state"] == "done"
    (folder / "manifest.json").unlink()
    assert run_state(TOY, tmp_path)["state"] == "stopped"


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(jobs=0), "jobs must be positive and finite, got 0"),
        (dict(mem=float("inf")), "mem must be positive and finite, got inf"),
        (dict(mem=float("nan")), "mem must be positive and finite, got nan"),
        (dict(slurm=["a\ntouch x\n#=1"]), "NAME=VALUE in one line"),
        (dict(slurm=["account=a\nb"]), "NAME=VALUE in one line"),
        (dict(slurm=["=vision"]), "NAME=VALUE"),
        (dict(partition="gpu\n"), "NAME=VALUE in one line"),
    ],
)
def test_resources_that_make_no_sense(given, says):
    with pytest.raises(VcaeError, match=says):
        Resources(**given)


def test_devices_that_cannot_be_dealt_out(tmp_path, monkeypatch):
    with pytest.raises(VcaeError, match="dealt out one to a run, so 'cuda:1' cannot be chosen"):
        engine.wants_gpu("cuda:1")
    with pytest.raises(VcaeError, match="device 'tpu' is not available"):
        list(train_all({"toy": [TOY]}, resources=Resources("tpu"), root=tmp_path))
    monkeypatch.setattr(engine.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937")
    with pytest.raises(VcaeError, match="need the numbers"):
        engine._local_gpus("auto")


def test_data_that_are_not_there(tmp_path):
    outcomes = list(train_all({"a": [Spec(steps=5), TOY]}, root=tmp_path))
    assert "names no data set" in outcomes[0].reason and not outcomes[1].reason


@pytest.mark.parametrize(
    "content, says",
    [
        ("{}", "must hold a list"),
        ("[]", "must hold a list"),
        ("[1]", "must hold a list"),
        ("[", "cannot read"),
        ("[" * 10**5, "cannot read"),
        ('[{"modle": "VCAE"}]', "Did you mean 'model'"),
        (None, "is missing, or no regular file"),
    ],
)
def test_lists_of_specs_that_are_none(content, says, tmp_path):
    if content is not None:
        (tmp_path / "specs.json").write_text(content)
    with pytest.raises(VcaeError, match=says):
        read_specs(tmp_path / "specs.json")


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    "Stand-ins for SLURM's commands: what was called is in `called`, what is queued in `queue`."
    folder = tmp_path / "slurm"
    folder.mkdir()
    refused = "sbatch: error: invalid partition specified: gup"
    scripts = {
        "sbatch": f'echo "sbatch $*" >> {folder}/called\n'
        f'test -e {folder}/refuse && {{ echo "{refused}" >&2; exit 1; }}\n'
        f"cp $1 {folder}/script; n=$(grep -c ^sbatch {folder}/called)\n"
        "echo Submitted batch job $n",
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
    return [x for x in (folder / "called").read_text().splitlines() if x.startswith(command)]


def jobs_of(folder, n=1):
    return [Job(replace(TOY, seed=seed).settings, str(folder), "cpu") for seed in range(n)]


def ids(submitted):
    return [job.job_id for _, job in submitted]


def test_nothing_is_submitted_twice(fake_slurm, tmp_path, capsys):
    jobs, two = jobs_of(tmp_path, 3), Resources("cpu", cpus=2, slurm=["account=vision"])
    assert ids(slurm.submit(jobs[:2], two)) == ["1_0", "1_1"]
    script = (fake_slurm / "script").read_text()
    options = "array=0-1%2 cpus-per-task=2 requeue account=vision time=240 signal=USR2@90"
    for option in options.split():
        assert f"#SBATCH --{option}\n" in script
    assert "gpus" not in script
    (fake_slurm / "queue").write_text("1_0 RUNNING\n1_1 PENDING\n")
    keys = [job.spec.key for job in jobs]
    assert slurm.queued_runs(tmp_path) == {keys[0]: "RUNNING", keys[1]: "PENDING"}
    assert ids(slurm.submit(jobs[:2], two)) == ["1_0", "1_1"]
    assert len(called(fake_slurm, "sbatch")) == 1
    (fake_slurm / "queue").write_text("1_1 PENDING\n")  # the first has ended
    assert ids(slurm.submit(jobs, Resources("auto"))) == ["1_1", "2_0", "2_1"]
    assert "#SBATCH --gpus-per-node=1\n" in (fake_slurm / "script").read_text()
    assert "2 jobs submitted to SLURM, 1 are there already" in capsys.readouterr().out


def test_slurm_refuses(fake_slurm, tmp_path):
    (fake_slurm / "refuse").touch()
    with pytest.raises(VcaeError, match="SLURM refuses the jobs: .*gup.*--partition"):
        slurm.submit(jobs_of(tmp_path), Resources(partition="gup"))
    (fake_slurm / "squeue").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(VcaeError, match="SLURM does not answer"):
        slurm.submit(jobs_of(tmp_path), Resources())
    assert slurm.queued_runs(tmp_path) == {}


def test_a_job_that_left_without_a_word(fake_slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    (outcome,) = slurm.slurm(jobs_of(tmp_path), Resources("cpu"))
    assert outcome.spec == TOY and "_log.out" in outcome.reason
    assert "was killed or stopped; the same call goes on from step 0 of 60" in outcome.reason


@pytest.mark.parametrize(
    "state, requeued",
    [("RUNNING", ["scontrol requeue 12"]), ("CANCELLED", []), ("PENDING", []), ("", [])],
)
def test_only_a_preempted_job_requeues_itself(fake_slurm, monkeypatch, state, requeued):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    (fake_slurm / "queue").write_text(state)
    slurm.requeue_if_preempted()  # the user's own allocation, say
    assert called(fake_slurm, "scontrol") == []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    slurm.requeue_if_preempted()
    assert called(fake_slurm, "scontrol") == requeued
