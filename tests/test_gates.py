"The gates of an nbdev repository, and what the prose of the notebooks relies on."

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vcae_nb.core import project_root, sha256

ROOT = project_root()
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


def contents(folder):
    "The digest of each notebook and module under a folder."
    found = [*folder.glob("nbs/*.ipynb"), *folder.glob("vcae_nb/**/*.py")]
    return {p.relative_to(folder): sha256(p.read_bytes()) for p in found}


@pytest.fixture
def copy(tmp_path):
    "The sources, in a folder where commands may change them."
    for name in ("nbs", "vcae_nb"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "settings.ini", tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["nbdev_clean", "nbdev_export"])
def test_command_changes_nothing(copy, command):
    before = contents(copy)
    assert len(before) > 20
    done = subprocess.run([Path(sys.executable).parent / command], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(copy) == before


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(notebook, tmp_path):
    "`nbdev_test` of one notebook, with run folders and results of its own."
    env = os.environ | {"VCAE_RUNS": str(tmp_path / "runs"), "VCAE_RESULTS": str(tmp_path / "results"), "MPLBACKEND": "agg"}
    command = [Path(sys.executable).parent / "nbdev_test", "--path", notebook, "--n_workers", "0"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "Success" in done.stdout + done.stderr, (done.stdout + done.stderr)[-3000:]


def code_cells(notebook):
    return ["".join(c["source"]) for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_imports_have_cells_of_their_own(notebook):
    "The docs step executes every cell that holds an import, with all that stands beside it."
    for source in code_cells(notebook):
        try:
            body = ast.parse(source).body
        except SyntaxError:
            continue  # shell or magic lines
        imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        assert all(imports) or not any(imports), source


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_sources_are_light(notebook):
    nb = json.loads(notebook.read_text())
    assert not any(c.get("outputs") for c in nb["cells"]) and len(nb["cells"]) <= 90
    tagged = [c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) <= 1
    for c in tagged:
        assert re.search(r'^profile: str = "smoke"', "".join(c["source"]), re.M)


LONG_LINES, LONG_CELLS = 24, 9  # how many there are; lower these as they go, to 0 and 5


def test_cells_are_short():
    "No more lines of code over 100 characters, captions aside, and no more exported cells over 40 lines."
    lines, cells = [], []
    for notebook in NOTEBOOKS:
        for source in code_cells(notebook):
            code = [line for line in source.splitlines() if line and not line.startswith("#|")]
            lines += [f"{notebook.stem}: {line}" for line in code if len(line) > 100]
            if re.search(r"^#\| *export", source, re.M) and len(code) > 40:
                cells.append(f"{notebook.stem}: {len(code)} lines from {code[0]}")
    print(f"{len(lines)} long lines, {len(cells)} long exported cells", *lines, *cells, sep="\n")
    assert len(lines) <= LONG_LINES and len(cells) <= LONG_CELLS


def test_evidence_is_light():
    for path in (ROOT / "results").glob("*/*.ipynb"):
        assert path.stat().st_size < 2e6, path


def test_public_functions_have_docstrings():
    for path in (ROOT / "vcae_nb").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_changed_results_are_explained():
    "Each committed results file has its line in the changelog."
    told, missing = (ROOT / "results" / "CHANGELOG.md").read_text(), []
    for path in sorted((ROOT / "results").glob("*/*.json")):
        results = json.loads(path.read_text())
        line = f"`{path.stem}` {sha256(json.dumps([results['rows'], results['claims']]))[:12]}"
        if path.parent.name != "smoke" and line not in told:
            missing.append(f"{path.parent.name}: {line}")
    assert not missing, f"say in results/CHANGELOG.md what changed and why: {missing}"
