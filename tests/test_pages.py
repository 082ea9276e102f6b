"What a notebook cannot show of executing notebooks: several at once, and a kernel that must go."

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest

from vcae_nb.book.pages import execute, execute_book, executed_path, is_current, notebooks
from vcae_nb.core import VcaeError

PARAMETERS = 'profile: str = "smoke"\nseeds: int = 1\nname: str = ""'
MEET = """
import os, pathlib, time
pathlib.Path(f"../{name}").write_text(str(os.getpid()))
other = pathlib.Path("../b" if name == "a" else "../a")
deadline = time.monotonic() + 60
while not other.exists():
    assert time.monotonic() < deadline
    time.sleep(0.02)
name * 3
"""
SLEEP = """
import os, pathlib, time
pathlib.Path("../pid").write_text(str(os.getpid()))
try:
    time.sleep(120)
except KeyboardInterrupt:
    pathlib.Path("../saved").touch()
    raise
"""
RUN = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell would ignore it
from vcae_nb.book.pages import execute
root = Path(sys.argv[1])
execute(root / "nbs/10_trial.ipynb", root / "out" / sys.argv[2], {"name": sys.argv[2][0]}, root=root)
"""


def book(root, *codes):
    "A project with one experiment, whose cells are the parameters and `codes`."
    root.joinpath("nbs").mkdir()
    root.joinpath("settings.ini").write_text("[DEFAULT]\n")
    cells = [nbformat.v4.new_markdown_cell("# Trial"), nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    nb = nbformat.v4.new_notebook(cells=cells + [nbformat.v4.new_code_cell(c) for c in codes])
    nbformat.write(nb, root / "nbs" / "10_trial.ipynb")
    return root, root / "nbs" / "10_trial.ipynb"


def text_of(path):
    return nbformat.read(path, as_version=4).cells[-1].outputs[0].data["text/plain"]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def start(root, output, **kwargs):
    return subprocess.Popen([sys.executable, "-c", RUN, str(root), output], cwd=root, stderr=subprocess.PIPE, text=True, **kwargs)


def test_unknown_parameter(tmp_path):
    root, notebook = book(tmp_path, "1")
    with pytest.raises(VcaeError, match="unknown parameter of 10_trial.ipynb 'seedz'.*Did you mean 'seeds'"):
        execute(notebook, root / "out.ipynb", {"seedz": 2}, root=root)
    assert not (root / "out.ipynb").exists()


@pytest.mark.parametrize("parameters", [{}, {"seeds": 2}])
def test_failing_notebook(tmp_path, parameters):
    root, notebook = book(tmp_path, "1", 'raise ValueError("first line\\nlast line")', "2")
    with pytest.raises(VcaeError, match="^10_trial.ipynb failed in cell 4: ValueError: last line$"):
        execute(notebook, root / "out" / "trial.ipynb", parameters, root=root)
    assert not (root / "out").exists()


def test_only_what_a_reader_needs_is_kept(tmp_path):
    root, notebook = book(tmp_path, "import pathlib, sys\nprint('warning', file=sys.stderr)\nprint(pathlib.Path('../x').resolve())\nobject()")
    execute(notebook, root / "out.ipynb", root=root)
    text, nb = (root / "out.ipynb").read_text(), nbformat.read(root / "out.ipynb", as_version=4)
    assert str(root) not in text and "warning" not in nb.cells[-1].outputs[0].text and nb.cells[-1].outputs[0].text == "x\n"
    assert nb.cells[-1].outputs[1].data["text/plain"] == "<object>" and all(c.get("execution_count") is None for c in nb.cells)
    assert set(nb.metadata) == {"kernelspec", "papermill"}


def test_damaged_copy_is_not_current(tmp_path):
    root, notebook = book(tmp_path, "1")
    (root / "out.ipynb").write_text("{")
    assert not is_current(notebook, root / "out.ipynb", root=root)


def test_dead_kernel(tmp_path):
    root, notebook = book(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(VcaeError, match="10_trial.ipynb stopped because its kernel died"):
        execute(notebook, root / "out.ipynb", root=root)


def test_two_at_once_in_threads(tmp_path):
    root, notebook = book(tmp_path, MEET)
    here = os.getcwd()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(execute, notebook, root / f"{n}.ipynb", {"name": n}, root=root) for n in "ab"]
        for job in jobs:
            job.result(90)
    assert [text_of(root / f"{n}.ipynb") for n in "ab"] == ["'aaa'", "'bbb'"] and os.getcwd() == here


def test_two_at_once_in_processes(tmp_path):
    root, _ = book(tmp_path, MEET)
    jobs = [start(root, f"{n}.ipynb") for n in "ab"]
    assert [job.wait(90) for job in jobs] == [0, 0]
    assert [text_of(root / "out" / f"{n}.ipynb") for n in "ab"] == ["'aaa'", "'bbb'"]


@pytest.mark.parametrize("how, saved", [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_kernel_goes_with_its_caller(tmp_path, how, saved):
    root, _ = book(tmp_path, SLEEP)
    job = start(root, "a.ipynb", start_new_session=True)
    wait_for(lambda: (root / "pid").is_file() and (root / "pid").read_text())
    pid = int((root / "pid").read_text())
    time.sleep(0.3)
    job.send_signal(how)
    job.wait(30)
    wait_for(lambda: not alive(pid), 30)
    assert job.returncode != 0 and not (root / "out").exists()
    assert (root / "saved").exists() == saved


def test_nothing_is_done_twice(tmp_path):
    save = 'import json, pathlib\np = pathlib.Path("../results/smoke/trial.json")\np.parent.mkdir(parents=True)\np.write_text(json.dumps({"rows": []}))'
    root, notebook = book(tmp_path, save)
    (chapter,) = notebooks(root)
    (output,) = execute_book("smoke", root=root)
    first = output.read_bytes()
    assert execute_book("smoke", root=root) == [output] and output.read_bytes() == first
    assert is_current(notebook, output, {"profile": "smoke"}, root=root)
    nb = nbformat.read(notebook, as_version=4)
    nb.cells[0].source += " and prose"
    nbformat.write(nb, notebook)
    assert is_current(notebook, output, {"profile": "smoke"}, root=root)
    nb.cells[-1].source += "\n1 + 1"
    nbformat.write(nb, notebook)
    assert not is_current(notebook, output, {"profile": "smoke"}, root=root)
    assert output == executed_path(chapter, "smoke", root) and json.loads(first)["metadata"]["papermill"]["exception"] is False


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_failure_does_not_stop_the_others(jobs, tmp_path, capsys):
    root, notebook = book(tmp_path, "raise RuntimeError('no')")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), root / "nbs" / "11_after.ipynb")
    with pytest.raises(VcaeError, match="10_trial.ipynb failed in cell 3: RuntimeError: no"):
        execute_book("smoke", root=root, jobs=jobs)
    assert (root / ".vcae" / "pages" / "after.ipynb").is_file()
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()][0] == ["trial", "failed"]
