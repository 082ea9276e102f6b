"""What is trained and written is right or refused by name, whatever happens to processes, disks and files.

`python tests/faults.py [--times 1.0] [--seed 0] [kind ...]` tries faults of each kind, each in a process of
its own, and prints how many were tried, held and failed; `make faults` does. A fault is held where the same
call, made again, gives what an undisturbed one gives, bit for bit, or says in a sentence what is wrong and where.
"""

import argparse
import builtins
import contextlib
import errno
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from functools import lru_cache, partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

torch.set_num_threads(1)

from vcae_nb.book import site as book_site
from vcae_nb.book.site import swap
from vcae_nb.book.engine import read_specs
from vcae_nb.core import sha256, VcaeError
from vcae_nb.data.datasets import DATASETS, dataset_of, mog
from vcae_nb.data.images import prepare_images
from vcae_nb.data.resident import read_array
from vcae_nb.data.shapes3d import convert_shapes3d
from vcae_nb.kept import keep, PART, read_bytes
from vcae_nb.measure.experiment import Experiment
from vcae_nb.method.flows import FlowSpec, fit_flow, flow_probe
from vcae_nb.method.models import Spec
from vcae_nb.method.runs import find_run, fit, probe

# ---- what is made: a run, a flow on it, a kept number, a results file

DATASETS["mog"] = lru_cache(partial(mog, n=200))
SETTINGS = dict(model="VCAE", dataset="mog", network="mlp", width=1 / 8, z_dim=2, sigma=0.2, batch=32, steps=120, eval_every=40)
SPEC, FLOW = Spec(**SETTINGS), FlowSpec(layers=2, hidden=(8,), steps=60, batch=32)
TABLE = Experiment("faults", section="", seeds={"smoke": 1, "cpu": 1, "paper": 1}, grid=lambda profile: [SETTINGS])


def digest(module):
    return sha256(*module.state_dict().values())


def work(root):
    "Make everything under `root`, or take it from there; what came out, without the times."
    os.environ |= {"VCAE_RUNS": f"{root}/runs", "VCAE_RESULTS": f"{root}/results", "VCAE_DATA": f"{root}/data"}
    run = fit(SPEC, device="cpu", checkpoint_seconds=0)
    flow = fit_flow(run, FLOW, device="cpu", checkpoint_seconds=0)
    kept = keep(run.folder, "trace", lambda: {"trace": run.encode(DATASETS["mog"]().test).var(0).sum()}, of="test")
    (row,) = TABLE.run("smoke", device="cpu").rows
    still = lambda numbers: {name: value for name, value in numbers.items() if name != "seconds"}
    return {
        "weights": digest(run.model), "metrics": run.metrics, "log": [still(line) for line in run.log],
        "flow": digest(flow), "likelihoods": flow.manifest["metrics"], "kept": kept["trace"].item(),
        "row": row | {"metrics": still(row["metrics"])},
    }


# ---- what stands between the library and the operating system

class Disk:
    """Sees every file operation under a root: notes it, kills the process at one, or lets it fail.

    `at` is the number of an operation, or of none; `how` is "before", "after" or "half" (of a write), where
    the process is killed, or an error number, which is raised there, and with `sticky` at each later one.
    """

    def __init__(self, root, at=None, how=None, sticky=False):
        self.root, self.at, self.how, self.sticky = str(root), at, how, sticky
        self.n, self.noted, self.paths = 0, [], {}  # operations; what they were; path of an open file
        self.real = {(m, name): getattr(m, name) for m, name in self.NAMES}
        for m, name in self.NAMES:
            setattr(m, name, partial(getattr(self, f"_{name}"), self.real[m, name]))

    NAMES = [(os, n) for n in ("open", "fsync", "replace", "rename", "unlink", "mkdir", "fdopen")] + [(io, "open"), (builtins, "open")]

    def hit(self, do, *what, half=None):
        "One operation: `what` is its name, path and more."
        here, self.n = self.n, self.n + 1
        now = here == self.at or (self.sticky and self.at is not None and here > self.at)
        if now and isinstance(self.how, int):
            raise OSError(self.how, os.strerror(self.how), str(what[1]))
        if now and self.how == "half" and half:
            half()
        if now and self.how in ("before", "half"):
            os.kill(os.getpid(), signal.SIGKILL)
        result = do()
        self.noted.append(what)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def mine(self, path):
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.root)

    def _open(self, real, path, mode="r", *more, **named):
        if not self.mine(path):
            return real(path, mode, *more, **named)
        if real is self.real[os, "open"]:  # mode is flags
            new = mode & os.O_CREAT and not os.path.exists(path)
            fd = self.hit(lambda: real(path, mode, *more, **named), "create" if new else "look", str(path))
            self.paths[fd] = str(path)
            return fd
        kind = "look" if "r" in mode else "append" if "a" in mode and os.path.exists(path) else "create"
        file = self.hit(lambda: real(path, mode, *more, **named), kind, str(path))
        self.paths[file.fileno()] = str(path)
        return File(file, self, str(path))

    def _fdopen(self, real, fd, *more, **named):
        file = real(fd, *more, **named)
        return File(file, self, self.paths[fd]) if fd in self.paths else file

    def _fsync(self, real, fd):
        return self.hit(lambda: real(fd), "fsync", self.paths[fd]) if fd in self.paths else real(fd)

    def _replace(self, real, a, b, **more):
        return self.hit(lambda: real(a, b, **more), "rename", str(a), str(b)) if self.mine(a) else real(a, b, **more)

    _rename = _replace

    def _unlink(self, real, path, **more):
        return self.hit(lambda: real(path, **more), "unlink", str(path)) if self.mine(path) else real(path, **more)

    def _mkdir(self, real, path, *more, **named):
        return self.hit(lambda: real(path, *more, **named), "mkdir", str(path)) if self.mine(path) else real(path, *more, **named)


class File:
    "An open file whose reads and writes are operations."

    def __init__(self, file, disk, path):
        self.file, self.disk, self.path = file, disk, path

    def write(self, content):
        def half():
            self.file.write(content[: len(content) // 2])
            self.file.flush()

        data = content.encode() if isinstance(content, str) else bytes(content)
        return self.disk.hit(lambda: self.file.write(content), "write", self.path, data, half=half)

    def read(self, *n):
        return self.disk.hit(lambda: self.file.read(*n), "read", self.path)

    def __enter__(self):
        return self

    def __exit__(self, *e):
        self.file.close()

    def __iter__(self):
        return iter(self.file)

    def __getattr__(self, name):
        return getattr(self.file, name)


# ---- a process for each trial

def start(do, *args, seconds=60, user=None):
    "Fork, and do something there: the process, and where it writes what came of it."
    answer = tempfile.TemporaryFile()
    sys.stdout.flush()
    if pid := os.fork():
        return pid, answer
    said = tempfile.TemporaryFile()
    for fd in (1, 2):
        os.dup2(said.fileno(), fd)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
    signal.alarm(seconds)
    if user is not None:
        os.setgid(user), os.setuid(user)
    real = os.fdopen, os.kill
    try:
        found = {"made": do(*args)}
    except VcaeError as e:
        found = {"refused": str(e)}
    except BaseException as e:
        found = {"crash": "".join(traceback.format_exception(e)[-4:])}
    said.seek(0)
    pickle.dump(found | {"said": said.read().decode(errors="replace")[-3000:]}, answer)
    answer.flush()
    os._exit(0)


def ended(started):
    "What came of it: made, refused, crash, or hang; nothing where it was killed."
    pid, answer = started
    _, status = os.waitpid(pid, 0)
    answer.seek(0)
    content = answer.read()
    if content:
        return pickle.loads(content)
    return {"hang": f"status {status}"} if status != signal.SIGKILL else {}


def tried(do, *args, **more):
    return ended(start(do, *args, **more))


class Tally:
    "What was tried of one kind, and what failed."

    def __init__(self, kind):
        self.kind, self.tried, self.failed, self.began = kind, 0, [], time.monotonic()

    def note(self, what, found, expected, root="", again=None):
        """Count a trial: it gave what was expected, or a sentence that names a file; else it failed.

        Where `again` is given, it is called after what the sentence says to delete is deleted, until
        it gives what was expected.
        """
        self.tried += 1
        for _ in range(4):
            if "refused" in found and again and str(root) in found["refused"]:
                heed(found["refused"], root)
                found = again()
        why = next((f"{k}: {found[k]}" for k in ("hang", "crash") if k in found), None)
        if "refused" in found and root and (again or str(root) not in found["refused"]):
            why = f"no file is named, or its advice does not help: {found['refused']}"
        if "made" in found and found["made"] != expected:
            parts = [k for k in expected or {} if found["made"].get(k) != expected[k]] or found["made"]
            why = f"SILENT, other {parts}: {found['said']}"
        if why:
            self.failed.append(f"{what}: {why}")
            print(f"FAILED {self.kind} {what}: {why}", flush=True)


def heed(advice, root):
    "Delete what a sentence says to delete, or what it is about."
    paths = re.findall(rf"(delete )?(?:the folder )?({re.escape(str(root))}[^\s:;,]*)", advice)
    path = Path(next((p for verb, p in paths if verb), paths[0][1]))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="vcae-faults-") as path:
        yield Path(path)


def age(root):
    "Make temporaries as old as those of a process that was killed long ago."
    for path in root.rglob(f"*{PART}"):
        os.utime(path, (0, 0))


def leftovers(root):
    "Temporaries and checkpoints that nobody will remove."
    return [str(p) for p in root.rglob("*") if p.name.endswith(PART) or p.name.startswith("checkpoint-")]


def count(root):
    "The number of file operations of an undisturbed run."
    disk = Disk(root)
    work(root)
    return disk.n, disk.noted


# ---- the kinds

def kills(tally, rng, n, expected):
    "SIGKILL at random times and at file operations, one to five a run; then the same call once more."
    with folder() as root:
        began = time.monotonic()
        (operations, _) = tried(count, root)["made"]
        seconds = time.monotonic() - began

    def until(root, at, how):
        Disk(root, at, how)
        work(root)

    while tally.tried < n:
        with folder() as root:
            points = []
            for _ in range(min(rng.randint(1, 5), n - tally.tried)):
                age(root)
                if rng.random() < 0.5:
                    points.append((rng.randrange(operations), rng.choice(["before", "after", "half"])))
                    tried(until, root, *points[-1])
                else:
                    started = start(work, root)
                    points.append(rng.uniform(0, seconds))
                    time.sleep(points[-1])
                    os.kill(started[0], signal.SIGKILL)
                    ended(started)
                tally.tried += 1
            tally.tried -= 1
            age(root)
            found = tried(work, root)
            if left := leftovers(root):
                found = {"crash": f"left behind: {left}"}
            tally.note(points, found, expected, root)


def templates(rng):
    "A folder that is finished and two that are half done, to be damaged."
    made = tempfile.mkdtemp(prefix="vcae-faults-")
    root = Path(made) / "root"
    (operations, noted) = tried(count, root)["made"]
    (root).rename(Path(made) / "whole")
    # killed while the run, and while its flow is being made
    runs = [i for i, what in enumerate(noted) if what[0] == "unlink" and "checkpoint" in what[1]]
    flow = [i for i, what in enumerate(noted) if "flow-" in what[1] and "log.jsonl" in what[1]]

    def until(at):
        Disk(root, at, "before")
        work(root)

    for name, at in (("run", runs[0]), ("flow", flow[-1])):
        tried(until, at)
        root.rename(Path(made) / name)
    return Path(made)


def damaged(tally, rng, n, expected, damage, **more):
    "Copies of the templates, one file of each damaged by `damage(path, rng)`, which says what it did."
    made = templates(rng)
    root = made / "root"  # the same path, as what was written may name it
    try:
        for _ in range(n):
            shutil.copytree(made / rng.choice(["whole", "whole", "run", "flow"]), root)
            path = rng.choice([p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.endswith(".lock")])
            what = damage(path, rng)
            found = tried(work, root, **more)
            tally.note(f"{path.relative_to(root)} {what}", found, expected, root, lambda: tried(work, root))
            shutil.rmtree(root)
    finally:
        shutil.rmtree(made)


def flip(path, rng):
    content = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"byte {place} bit {bit}: {bytes(content[max(0, place - 20):place + 20])!r}"


def cut(path, rng):
    size = rng.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"cut to {size}"


def put(path, rng):
    "Put something else in the place of a file."
    content, how = path.read_bytes(), rng.choice(REPLACED)
    path.unlink()
    if callable(how):
        how(path)
    elif how is not None:
        path.write_bytes(how(content) if callable(how) else how)
    return getattr(how, "__name__", repr(how)[:40])


def zeros(path):
    path.write_bytes(bytes(1000))


def fifo(path):
    os.mkfifo(path)


def link(to):
    def make(path):
        path.symlink_to(to or path.name)

    make.__name__ = f"link to {to or 'itself'}"
    return make


def sparse(path):
    with path.open("wb") as f:
        f.truncate(1 << 40)


REPLACED = [
    None, b"", zeros, fifo, sparse, Path.mkdir, link(""), link("/dev/zero"), link("/none"), b"{}", b"[1, 2]", b"null",
    b"[" * 100_000, b'{"sha256": NaN}', b"\xff\xfe{", b'{"identity": 5, "step": "x"}\n', b"\x93NUMPY\x01\x00", b"PK\x03\x04",
]


def stuck(tally, rng, n, expected):
    "A file operation that fails, once or from then on; then the same call once more, undisturbed."
    with folder() as root:
        (operations, _) = tried(count, root)["made"]

    def failing(*how):
        Disk(root, *how)
        return work(root)

    for _ in range(n):
        with folder() as root:
            number, sticky = rng.choice([errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS]), rng.random() < 0.3
            how = rng.randrange(operations), number, sticky
            first = tried(failing, *how)
            age(root)
            found = tried(work, root) if "crash" not in first and "hang" not in first else first
            if left := leftovers(root):
                found = {"crash": f"left behind: {left}"}
            tally.note(f"{errno.errorcode[number]} at {how}", found, expected, root)


def disks(tally, rng, n, expected):
    "File systems that are too small, then larger. Needs root."
    for _ in range(n):
        with folder() as root:
            mount = lambda options: subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", root], capture_output=True).returncode
            size = rng.choice([4, 8, 16, 32, 48, 64, 80, 100, 128]) << 10
            limit = rng.choice([f"size={size}", f"nr_inodes={rng.randint(2, 14)}"])
            if mount(limit):
                return print("no file system can be mounted here: no small disk was tried")
            try:
                first = tried(work, root)
                if "refused" in first or "made" in first:
                    mount("remount,size=9m,nr_inodes=1000")
                    first = tried(work, root)
                tally.note(limit, first, expected, root)
            finally:
                subprocess.run(["umount", "-l", root], check=True)


def threads(tally, rng, n, expected):
    "Six fits in six threads, and a thread beside them that draws; each is what it is alone."
    specs = [Spec(**SETTINGS | {"seed": i, "steps": 20}) for i in range(6)]
    fits = lambda root, spec: digest(fit(spec, device="cpu", root=root).model)

    def together(root):
        made, over = {}, threading.Event()

        def disturb():
            while not over.is_set():
                torch.manual_seed(rng.randrange(99)), torch.rand(100)

        work_on = lambda spec: made.__setitem__(spec.seed, fits(root, spec))
        beside, ours = threading.Thread(target=disturb), [threading.Thread(target=work_on, args=[s]) for s in specs]
        for thread in (beside, *ours):
            thread.start()
        for thread in ours:
            thread.join()
        over.set()
        return made

    with folder() as root:
        alone = tried(lambda: {spec.seed: fits(root, spec) for spec in specs})["made"]
    for _ in range(n):
        with folder() as root:
            tally.note("six threads", tried(together, root), alone, root)


def twice(tally, rng, n, expected):
    "Two processes in one folder, whose lock is deleted meanwhile; then the same call once more."
    for _ in range(n):
        with folder() as root:
            first = start(work, root)
            time.sleep(rng.uniform(0, 0.4))
            for lock in root.rglob("*.lock"):
                lock.unlink()
            second = start(work, root)
            for found in (ended(first), ended(second), tried(work, root)):
                tally.note("a lock is deleted", found, expected, root, lambda: tried(work, root))


@contextlib.contextmanager
def set_to(put, value, back):
    "Within, a switch of the process has another value."
    put(value)
    try:
        yield
    finally:
        put(back)


def hooked():
    "A hook on every module of the process, which doubles what it gives."
    return torch.nn.modules.module.register_module_forward_hook(lambda module, x, y: y * 2 if isinstance(y, torch.Tensor) else None)


CONTEXTS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "anomaly": torch.autograd.detect_anomaly,
    "matmul medium": lambda: set_to(torch.set_float32_matmul_precision, "medium", "highest"),
    "matmul high": lambda: set_to(torch.set_float32_matmul_precision, "high", "highest"),
    "float64": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: set_to(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "meta device": lambda: torch.device("meta"),
    "default device": lambda: set_to(torch.set_default_device, "meta", None),
    "deterministic": lambda: set_to(torch.use_deterministic_algorithms, True, False),
    "denormals": lambda: set_to(torch.set_flush_denormal, True, False),
    "no oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
    "oneDNN in bf16": lambda: set_to(lambda x: setattr(torch.backends.mkldnn.matmul, "fp32_precision", x), "bf16", "none"),
    "all in bf16": lambda: set_to(lambda x: setattr(torch.backends, "fp32_precision", x), "bf16", "none"),
    "hook": hooked,
    "warnings": lambda: warnings.catch_warnings(action="error"),
    "numpy": lambda: np.errstate(all="raise"),
    "umask": lambda: set_to(os.umask, 0o077, 0o022),
    "seeded": lambda: set_to(torch.manual_seed, 7, 0),
    "saved tensors": lambda: torch.autograd.graph.save_on_cpu(),
    "one thread": lambda: set_to(torch.set_num_threads, 1, 1),
}


def contexts(tally, rng, n, expected):
    "What the caller has set does not reach into it, or is refused."

    def inside(name, root):
        with CONTEXTS[name]():
            return work(root)

    for name in rng.sample(list(CONTEXTS), min(n, len(CONTEXTS))):
        with folder() as root:
            tally.note(name, tried(inside, name, root), expected)


# ---- files and settings from elsewhere, each of which is to be refused, at once and within bounds

def as_file(name, how, use):
    "A trial: a file made by `how` under the root, then used."

    def trial(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        how(root / name)
        return use(root)

    return trial


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(3):
            file.writestr(f"{i}.png", b"\x89PNG\r\n\x1a\n" + bytes(100 << 20))


def huge(path):
    with path.open("wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 64, 64, 3)})


def pickled(path):
    np.save(path, np.array([print], dtype=object), allow_pickle=True)


def arrays(root):
    (root / "data/x").mkdir(parents=True, exist_ok=True)
    return read_array(root / "data/x/train.npy", "prepare it again")


def own(name):
    with Image.new("L", (20, 20)) as image:
        return lambda path: (path.mkdir(parents=True), image.save(path / f"{name}.png"), image.save(path / "b.png"))


pictures = lambda root: prepare_images(next(root.glob("p*")), "pictures")
given = lambda make: lambda root: dataset_of(make(torch.zeros(40, 6)))
setting = lambda **more: lambda root: Spec(**SETTINGS | more)
MALICIOUS = {
    "zip that unfolds": as_file("p.zip", bomb, pictures),
    **{f"picture that is a {how.__name__}": as_file("p/a.png", how, pictures) for how in (fifo, sparse, link("/dev/zero"), link(""), Path.mkdir)},
    "name with markup and control characters": as_file("p", own("<script>\x1b[2J"), pictures),
    **{f"list of runs that is a {how.__name__}": as_file("s", how, lambda root: read_specs(root / "s")) for how in (fifo, sparse, link("/dev/zero"))},
    **{f"array that is a {how.__name__}": as_file("data/x/train.npy", how, arrays) for how in (fifo, huge, pickled, zeros, link("/dev/zero"))},
    **{f"idx file that is a {how.__name__}": as_file("i", how, lambda root: read_bytes(root / "i")) for how in (fifo, sparse, link("/dev/zero"))},
    "3dshapes that is no HDF5": as_file("3dshapes.h5", zeros, lambda root: convert_shapes3d(root / "3dshapes.h5")),
    "float8": given(lambda x: x.to(torch.float8_e4m3fn)), "meta": given(lambda x: x.to("meta")), "sparse tensor": given(lambda x: x.to_sparse()),
    "quantised": given(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
    "nested": given(lambda x: torch.nested.nested_tensor([x, x[:3]])), "objects": given(lambda x: np.array([print] * 5)),
    "complex": given(lambda x: x + 1j), "not finite": given(lambda x: x / 0),
    "seed of 400 digits": setting(seed=10**400), "name of markup": setting(model="<script>"), "unknown setting": lambda root: Spec.from_dict({"seef": 1}),
    "run with a name of 5000 letters": lambda root: find_run("x" * 5000), "device meta": lambda root: fit(SPEC, root=root, device="meta"),
}


def malicious(tally, rng, n, expected):
    "Each is refused in a sentence, within a minute and half a gigabyte."
    memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    def bounded(trial, root):
        os.environ["VCAE_DATA"] = f"{root}/data"
        before = memory()
        try:
            return f"accepted: {trial(root)!r}"
        finally:
            if memory() - before > 0.5:
                raise MemoryError(f"{memory() - before:.1f} GB")

    for name, trial in MALICIOUS.items():
        with folder() as root:
            tally.note(name, tried(bounded, trial, root), None)


# ---- what may be on a disk after a power cut

def history(noted):
    "The operations as changes of a file system in which a name leads to a number, and a number to content."
    truth, sizes, changes = {}, {}, []
    for kind, path, *more in noted:
        if kind in ("create", "mkdir"):
            truth[path] = len(changes)
            changes.append((kind, path, len(changes)))
        elif kind == "write":
            number = truth[path]
            changes.append(("write", number, sizes.get(number, 0), more[0]))
            sizes[number] = sizes.get(number, 0) + len(more[0])
        elif kind == "rename":
            inside = [p for p in truth if p == path or p.startswith(f"{path}/")]
            moves = [(p, more[0] + p[len(path) :], truth.pop(p)) for p in inside]
            truth |= {new: number for _, new, number in moves}
            changes.append(("rename", moves))
        elif kind == "unlink":
            changes.append(("unlink", path, truth.pop(path)))
        elif kind == "fsync":
            changes.append(("fsync", truth[path] if path in truth else None, path))
    return changes


def is_durable(change, later):
    "Whether a change is on the disk by what was flushed later: a file's content, or names in a folder."
    flushed = [c[1:] for c in later if c[0] == "fsync"]
    if change[0] == "write":
        return any(number == change[1] for number, _ in flushed)
    names = [m[i] for m in change[1][:1] for i in (0, 1)] if change[0] == "rename" else change[1:2]
    return all(any(os.path.dirname(name) == path for _, path in flushed) for name in names)


def on_disk(changes, there, torn=None, how=None):
    "The files that these of the changes leave, and of a torn one the first half, or zeros."
    names, contents = {}, {}
    for i, (kind, *what) in enumerate(changes):
        if i not in there or kind == "fsync":
            continue
        if kind in ("create", "mkdir"):
            names[what[0]] = what[1]
            contents.setdefault(what[1], bytearray() if kind == "create" else None)
        elif kind == "write":
            number, start, data = what
            data = (data[: len(data) // 2] if how == "half" else bytes(len(data))) if i == torn else data
            file = contents.setdefault(number, bytearray())
            file.extend(bytes(max(0, start - len(file))))
            file[start:] = data
        else:
            for old, new, number in what[0] if kind == "rename" else [(what[0], None, what[1])]:
                if names.get(old) == number:
                    del names[old]
                if new:
                    names[new] = number
                    contents.setdefault(number, None if changes[number][0] == "mkdir" else bytearray())
    made = {c[1] for c in changes if c[0] == "mkdir"} | {m[1] for c in changes if c[0] == "rename" for m in c[1]}
    gone = [p for p in made if p not in names]
    return {p: contents[n] for p, n in names.items() if not any(p.startswith(f"{g}/") for g in gone)}


def states(changes):
    """After each operation: everything is on the disk; only what was flushed; all but one change that was
    not; one such alone; and a write that is half there, or is zeros."""
    for k in range(1, len(changes) + 1):
        if changes[k - 1][0] == "fsync" and k < len(changes):
            continue  # it leaves fewer states, which are among those of the next
        past = changes[:k]
        pending = [i for i, c in enumerate(past) if c[0] != "fsync" and not is_durable(c, past[i:])]
        every, sure = set(range(k)), set(range(k)) - set(pending)
        yield k, on_disk(past, every)
        yield k, on_disk(past, sure)
        for i in pending:
            yield k, on_disk(past, every - {i})
            yield k, on_disk(past, sure | {i})
            if past[i][0] == "write":
                yield k, on_disk(past, every, i, "half")
                yield k, on_disk(past, every, i, "zeros")


def lay_out(files, root):
    "Make a state on the disk."
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path, content in sorted(files.items()):
        if content is None:
            Path(path).mkdir(parents=True, exist_ok=True)
        else:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(content)


def unique(found):
    "Each state once: the number of the operation, and the files."
    seen = {}
    for k, files in found:
        seen[sha256(repr(sorted((p, bytes(c or b"")) for p, c in files.items() if not p.endswith(".lock"))))] = k, files
    return list(seen.values())


def power(tally, rng, n, expected):
    "Power cuts: what may be on the disk, by all legal orders of what was not flushed; then the same call."
    with folder() as root:
        root = root / "root"
        root.mkdir()
        (_, noted) = tried(count, root)["made"]
        changes = history(noted)
        finished = {p for p in on_disk(changes, set(range(len(changes)))) if p.endswith(("manifest.json", ".json", ".safetensors"))}
        found = unique(states(changes))
        end = [files for k, files in found if k == len(changes)]
        for files in end:
            lost = {"crash": f"lost: {finished - set(files)}"} if finished - set(files) else {"made": None}
            tally.note("after the end", lost, None, root)
        for k, files in rng.sample(found, min(n, len(found))):
            lay_out(files, root)
            tally.note(f"operation {k} {changes[k - 1][:2]}", tried(work, root), expected, root, lambda: tried(work, root))


def site(tally, rng, n, expected):
    "Power cuts while a site takes the place of an older: the old one or the new one is there, whole."
    pages = [f"{name}.html" for name in "abc"]

    def replace(root):
        book_site.ctypes.CDLL = lambda name: None  # no exchange, which the disk would not see
        disk, place, new = Disk(root), root / "site", root / "new"
        for text in ("old", "new"):
            new.mkdir()
            for name in pages:
                with open(new / name, "w") as f:
                    f.write(text)
            swap(new, place, root / "aside")
            at = len(disk.noted) if text == "old" else at
        return at, disk.noted

    with folder() as root:
        root = root / "root"
        root.mkdir()
        at, noted = tried(replace, root)["made"]
        changes = history(noted)
        for k, files in unique(states(changes)):
            if k < len(history(noted[:at])):
                continue  # there was no old one yet
            read = lambda place: {bytes(files.get(f"{root}/{place}/{name}", b"-")) for name in pages}
            whole = read("site") in ({b"old"}, {b"new"}) or (read("aside") == {b"old"} and f"{root}/site" not in files)
            found = {"made": None} if whole else {"crash": str(files)[:500]}
            tally.note(f"operation {k} {changes[k - 1][:2]}", found, None, root)


KINDS = {  # how many at `--times 1`, and what tries them
    "kills": (300, kills), "flips": (300, partial(damaged, damage=flip)), "truncations": (100, partial(damaged, damage=cut)),
    "replaced files": (100, partial(damaged, damage=put)), "failing operations": (200, stuck), "small disks": (33, disks),
    "malicious": (1, malicious), "power cuts": (200, power), "power cuts, site": (1, site), "deleted locks": (10, twice), "threads": (10, threads), "contexts": (150, contexts),
}


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("kinds", nargs="*", metavar="kind", help=f"of {', '.join(KINDS)}; all if none is named")
    words.add_argument("--times", type=float, default=1.0, help="more, or a part")
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    probe(SPEC, (100,)), flow_probe(FLOW.kind)  # once, for all children
    with folder() as root:
        first = tried(work, root)
        assert "made" in first, first
    tallies = []
    for kind in given.kinds or KINDS:
        n, try_all = KINDS[kind]
        tallies.append(tally := Tally(kind))
        try_all(tally, random.Random(f"{given.seed} {kind}"), max(1, round(n * given.times)), first["made"])
        held = tally.tried - len(tally.failed)
        print(f"{kind:20} {tally.tried:5} tried {held:5} held {len(tally.failed):5} failed {time.monotonic() - tally.began:5.0f} s", flush=True)
    sys.exit(any(tally.failed for tally in tallies))


if __name__ == "__main__":
    main()
