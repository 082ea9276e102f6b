"""The engine on a real SLURM: an array, disturbed on purpose, compared bit for bit with inline.

    python tests/slurm/run.py [EXPERIMENT ...] [--steps N]

Starts a SLURM of one node in a temporary folder (as root; on Debian: apt-get install slurmctld
slurmd slurm-client munge), trains the smoke grids and three longer runs through one array, and
meanwhile
  - requeues a job that is training,
  - kills a training process with SIGKILL,
  - preempts the jobs that are training, by one of a partition with a higher priority.
Then it trains the same specs inline, with as many threads, and compares weights, metrics and
logs. Everything stops and goes at the end.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vcae_nb.book.engine import specs_json
from vcae_nb.core import project_root
from vcae_nb.experiments.catalogue import EXPERIMENTS
from vcae_nb.kept import checkpoints, read_log
from vcae_nb.method.runs import Run

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
CONF = """
ClusterName=vcae
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=9 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def say(*words):
    print(f"{time.strftime('%H:%M:%S')}", *words, flush=True)


def ask(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def wait_for(what, condition, seconds=1200):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.5)
    return found


def refuse_where_impossible():
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if os.geteuid() != 0:
        sys.exit("this starts a SLURM of its own, which needs root")
    if missing:
        packages = "slurmctld slurmd slurm-client munge"
        sys.exit(f"{', '.join(missing)} missing; on Debian: apt-get install {packages}")
    runs = subprocess.run(["pgrep", "-x", "slurmctld|slurmd"], capture_output=True)
    configured = Path("/etc/slurm/slurm.conf").exists() or os.environ.get("SLURM_CONF")
    if configured or runs.returncode == 0:
        sys.exit("there is a SLURM on this machine already, which this test leaves alone")


@contextmanager
def cluster(folder):
    "A SLURM of one node, whose state is in `folder`; it is stopped at the end."
    for name in ("state", "spool"):
        (folder / name).mkdir()
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024 * 9 // 10
    conf, key = folder / "slurm.conf", folder / "munge.key"
    facts = dict(host=socket.gethostname(), cpus=os.cpu_count(), memory=memory)
    conf.write_text(CONF.format(folder=folder, **facts))
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    os.environ["SLURM_CONF"] = str(conf)
    os.environ["PATH"] += ":/usr/sbin"
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{name}={folder}/munge.{end}" for name, end in files.items()]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    state = ["sinfo", "-h", "-p", "low", "-o", "%t"]
    daemons = []
    try:
        for command in commands:
            daemons.append(subprocess.Popen(command, **quiet))
            time.sleep(1)
        look = lambda: subprocess.run(state, capture_output=True, text=True).stdout.strip()
        wait_for("the node to come up", lambda: look() == "idle", 60)
        yield
    finally:
        subprocess.run(["scancel", "--name=vcae"], capture_output=True)
        time.sleep(2)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def vcae(*words):
    "The command line of a `vcae` command."
    return [sys.executable, "-m", "vcae_nb", *map(str, words)]


class Watch:
    "The jobs and runs of the array, while it goes."

    def __init__(self, runs):
        self.runs = runs

    def job(self, spec):
        return json.loads((self.runs / ".jobs/slurm/jobs.json").read_text())[spec.key]

    def state(self, spec):
        found = [line.split() for line in ask("squeue", "-h", "-r", "-o", "%i %T").splitlines()]
        return dict(found).get(self.job(spec))

    def step(self, spec):
        log = read_log(self.runs / spec.key / "log.jsonl")
        return max((entry["step"] for entry in log), default=0)

    def log(self, spec):
        path = self.runs / ".jobs/slurm" / f"{self.job(spec)}_0_log.out"
        return path.read_text() if path.exists() else ""

    def done(self, spec):
        return (self.runs / spec.key / "manifest.json").exists()

    def training(self, spec, past=0):
        "Wait until a run trains and is past a step."
        trains = lambda: self.state(spec) == "RUNNING" and self.step(spec) > past
        wait_for(f"{spec.key} to train", trains)
        assert not self.done(spec), f"{spec.key} was too fast to be disturbed; take more --steps"

    def back_at_once(self, spec):
        "A requeued job waits for two minutes by SLURM's default; no need to."
        wait_for(f"{spec.key} to be queued again", lambda: self.state(spec) == "PENDING", 120)
        now = ["scontrol", "update", f"JobId={self.job(spec)}", "StartTime=now"]
        taken = lambda: subprocess.run(now, capture_output=True).returncode == 0
        wait_for("SLURM to take a new start", taken, 60)

    def process(self, spec):
        "The process that trains."
        array, _, index = self.job(spec).partition("_")
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ids = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={index}"}
            of_job = {name.encode() for name in ids} <= set(variables)
            if of_job and b"submitit.core._submit" in words and b"srun" not in words[0]:
                return int(folder.name)
        raise AssertionError(f"no process trains {spec.key}")


def disturb(watch, requeued, killed, preempted):
    "What a cluster does to jobs."
    watch.training(requeued)
    say("requeue", watch.job(requeued), "at step", watch.step(requeued))
    ask("scontrol", "requeue", watch.job(requeued))
    watch.back_at_once(requeued)
    assert "stopped at step" in watch.log(requeued), watch.log(requeued)

    watch.training(killed)
    wait_for("a checkpoint", lambda: checkpoints(watch.runs / killed.key))
    watch.training(killed, watch.step(killed))  # and some steps that will be lost
    say("kill", watch.job(killed), "at step", watch.step(killed))
    os.kill(watch.process(killed), signal.SIGKILL)

    watch.training(preempted)
    say("preempt", watch.job(preempted), "at step", watch.step(preempted))
    important = ["--exclusive", "-o", "/dev/null", "--job-name=important", "--wrap", "sleep 2"]
    ask("sbatch", "-p", "high", *important)
    back = "told to leave while running: back into the queue"
    wait_for("the job to put itself back", lambda: back in watch.log(preempted), 180)
    watch.back_at_once(preempted)


def outcome(folder):
    "What a run leaves behind, without the times."
    run = Run(folder)
    log = [{k: v for k, v in entry.items() if k != "seconds"} for entry in run.log]
    return {"weights": run.weights_sha256, "metrics": run.metrics, "log": log}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", help="whose smoke grids; all if none is named")
    parser.add_argument("--steps", type=int, default=30_000, help="of the three longer runs")
    return parser.parse_args()


def on_the_cluster(call, env, long, smoke, names, runs):
    "Train through SLURM, with a second call beside the first, disturbances, and a last call."
    first = subprocess.Popen(
        call, cwd=project_root(), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )
    watch = Watch(runs)
    wait_for("the array", (runs / ".jobs/slurm/jobs.json").is_file)

    second = subprocess.Popen(call, cwd=project_root(), env=env, stdout=subprocess.PIPE, text=True)
    line = next(line for line in second.stdout if "submitted" in line)
    second.send_signal(signal.SIGINT)
    rest = second.communicate()[0]
    assert line.startswith("0 jobs submitted") and "jobs stay with SLURM" in rest, (line, rest)
    assert second.returncode == 130
    say("a second call:", line.strip().split("; logs")[0], "| Ctrl-C:", rest.splitlines()[-1])

    disturb(watch, *long)
    out = first.communicate()[0]
    say("the first call has ended with", first.returncode)
    print(out)
    killed = "was killed or stopped; the same call goes on from step"
    assert first.returncode == 1 and killed in out, "the killed run must be reported"
    undone = [spec.key for spec in long + smoke if not watch.done(spec)]
    assert undone == [long[1].key], undone
    again = subprocess.run(call, cwd=project_root(), env=env, capture_output=True, text=True)
    print(again.stdout, again.stderr)
    assert again.returncode == 0 and "1 jobs submitted" in again.stdout
    if "toy_mog" in names:
        words = vcae("run", "toy_mog", "--executor", "slurm", "--device", "cpu")
        page = subprocess.run(words, cwd=project_root(), env=env, capture_output=True, text=True)
        print(page.stdout, page.stderr)
        assert page.returncode == 0 and "submitted" not in page.stdout  # all is done


def main():
    args = arguments()
    refuse_where_impossible()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the daemons stop too
    names = args.experiments or list(EXPERIMENTS)
    smoke = list({spec: None for name in names for spec in EXPERIMENTS[name].specs("smoke")})
    toy = EXPERIMENTS["toy_mog"].specs("smoke", 1)[0]
    long = [replace(toy, seed=seed, steps=args.steps) for seed in (101, 102, 103)]
    with tempfile.TemporaryDirectory(prefix="vcae-slurm-") as f:
        folder = Path(f).resolve()
        folder.chmod(0o755)
        specs = folder / "specs.json"
        specs.write_text(specs_json(long + smoke))
        where = lambda name: {"VCAE_RUNS": folder / name, "VCAE_RESULTS": folder / f"of-{name}"}
        env = lambda name: os.environ | {k: str(v) for k, v in where(name).items()}
        call = vcae("train", specs, "--device", "cpu", "--cpus", 1)
        with cluster(folder):
            say(ask("scontrol", "version"), "is up;", len(smoke), "runs of", ", ".join(names))
            sent = [*call, "--executor", "slurm", "--time", "600"]
            on_the_cluster(sent, env("cluster"), long, smoke, names, folder / "cluster")
        say("the same inline")
        quiet = dict(check=True, stdout=subprocess.DEVNULL)
        subprocess.run(call, cwd=project_root(), env=env("inline"), **quiet)
        equal, fates = 0, dict(zip(long, ("requeued", "killed", "preempted")))
        for spec in long + smoke:
            one, other = (outcome(folder / name / spec.key) for name in ("cluster", "inline"))
            equal += one == other
            digests = f"{one['weights'][:12]}  {other['weights'][:12]}"
            verdict = "equal" if one == other else "DIFFERENT"
            print(f"{spec.key:45} {digests}  {verdict}  {fates.get(spec, '')}")
        if equal < len(long + smoke):
            sys.exit(f"{len(long + smoke) - equal} of {len(long + smoke)} runs differ")
        print(f"{equal} runs equal bit for bit")


if __name__ == "__main__":
    main()
