"Whatever is changed in the evidence is named: by digests, and by computing again where digests were changed, too."

import json
import os
import random
import re
import shutil
import subprocess

import pytest
from test_results import TRIAL
from typer.testing import CliRunner

from vcae_nb.book import verify as module
from vcae_nb.book.cli import app
from vcae_nb.book.verify import check_claims, check_run, check_sums, check_training, SUMS, verify, write_sums
from vcae_nb.core import project_root, results_path
from vcae_nb.experiments.catalogue import EXPERIMENTS
from vcae_nb.kept import write_signed

TIMES = 5 if os.environ.get("FAULTS") else 1  # `make faults` tries five times as many


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    "A profile's folder: a table, a page, and the runs of the table."
    place = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCAE_RESULTS", str(place / "results"))
        patch.setenv("VCAE_RUNS", str(place / "runs"))
        patch.setitem(EXPERIMENTS, "trial", TRIAL)
        TRIAL.run("cpu", device="cpu")
        folder = place / "results" / "cpu"
        shutil.copytree(place / "runs", folder / "weights", ignore=shutil.ignore_patterns(".*"))
        patch.setenv("VCAE_RUNS", str(place / "none"))
        (folder / "trial.ipynb").write_text(json.dumps({"cells": [], "metadata": {}}, indent=1))
        write_sums("cpu")
        yield folder


@pytest.fixture
def whole(evidence):
    "The same, restored afterwards."
    before = {p: p.read_bytes() for p in evidence.rglob("*") if p.is_file()}
    yield evidence
    for path in evidence.rglob("*"):
        if path.is_file() and path not in before:
            path.unlink()
    for path, content in before.items():
        path.write_bytes(content)


def faults(paths, times, seed):
    "Flipped bits and edited digits, one at a time: file, place, and the content before."
    rng = random.Random(seed)
    for i in range(times * TIMES):
        path = rng.choice(paths)
        before = path.read_bytes()
        digits = [m.start() for m in re.finditer(rb"\d", before)] if path.suffix != ".safetensors" else []
        content = bytearray(before)
        if i % 2 and digits:
            place = rng.choice(digits)
            content[place] = rng.choice([d for d in b"0123456789" if d != content[place]])
        else:
            place = rng.randrange(len(content))
            content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            yield path, place, before
        finally:
            path.write_bytes(before)


def different(findings):
    return [f for f in findings if f.state == "differs"]


def files_of(folder):
    "The table four times as often as each other file."
    return sorted(p for p in folder.rglob("*") if p.is_file()) + 3 * [folder / "trial.json"]


def test_nothing_differs_in_what_was_written(evidence):
    found = verify("cpu")
    assert [f for f in found if f.state != "holds"] == []
    assert {f.says for f in found} == {f"agrees with {x}" for x in (SUMS, "the rows", "today's code", "the run", "the weights")}


def test_every_flipped_bit_and_edited_digit_is_named(evidence):
    tried = 0
    for path, place, before in faults(files_of(evidence), 60, seed=0):
        found, name = different(check_sums(evidence)), path.relative_to(evidence).as_posix()
        assert name in [f.where for f in found], (name, place)
        if name != SUMS:
            assert {f.where for f in found if not f.where.startswith("trial ")} == {name}
        tried += 1
    assert tried == 60 * TIMES and different(check_sums(evidence)) == []


def test_the_row_and_the_field_are_named(evidence):
    path, named = evidence / "trial.json", 0
    for _, place, before in faults([path], 60, seed=1):
        text, where = before.decode(), [f.where for f in different(check_sums(evidence))]
        (entry,) = [m[0] for m in module._ENTRY.finditer(text) if m.start() <= place < m.end()] or [None]
        try:
            if json.loads(path.read_bytes()) == json.loads(before):
                continue  # a blank became another: the file is named
        except ValueError:
            pass
        key = re.search(r'"(?:run|id)": "(.*?)"', entry)[1] if entry else "the rest"
        assert f"trial {key}" in where, (key, place)
        named += 1
    assert named > 40 * TIMES
    content = json.loads(path.read_text())
    before, row = path.read_bytes(), content["rows"][3]
    row["metrics"]["test_mmd"] += 1e-12
    path.write_text(json.dumps(content, indent=1) + "\n")
    says = [str(f) for f in different(check_sums(evidence))]
    path.write_bytes(before)
    assert says == [f"trial {row['run']}: is other in metrics.test_mmd", f"trial.json: is other in {SUMS}"]


def test_without_the_list_each_file_still_knows_itself(whole):
    (whole / SUMS).unlink()
    assert [f.where for f in different(verify("cpu", rows=0))] == [SUMS]
    table = whole / "trial.json"
    rows = {row["run"]: row for row in json.loads(table.read_text())["rows"]}
    paths = [p for p in files_of(whole) if p.name not in ("spec.json", "trial.ipynb")]  # which nothing rests on
    for path, place, before in faults(paths, 60, seed=2):
        if path == table:
            try:
                if json.loads(path.read_bytes()) == json.loads(before):
                    continue  # a blank became another
            except ValueError:
                pass
            found = module._guarded("trial.json", check_claims(path))
        else:
            found = module._guarded(path.parent.name, check_run("trial", rows[path.parent.name]))
        assert any(f.state == "differs" for f in found), (path, place)  # ends with the first


def test_what_is_gone_or_new_is_named(whole):
    run = min((whole / "weights").iterdir())
    (run / "weights.safetensors").unlink()
    (whole / "weights" / "more.txt").write_text("new")
    found = {f.where: f.says for f in different(verify("cpu", rows=0))}
    assert found.pop(f"trial {run.name}").endswith("weights.safetensors is missing, or no regular file")
    assert found == {
        f"weights/{run.name}/weights.safetensors": "is missing", "weights/more.txt": f"is not in {SUMS}",
    }


def sign_anew(path, content):
    "What somebody does who changes a number and hides it."
    write_signed(path, {k: v for k, v in content.items() if k != "sha256"})
    write_sums("cpu")


def test_changed_numbers_under_new_digests_do_not_follow(whole):
    table, rng = results_path("trial", "cpu"), random.Random(3)
    text = table.read_text()
    for i in range(10 * TIMES):
        content = json.loads(text)
        line = rng.choice(content["rows"])
        numbers = line["metrics"] if i % 2 else content["claims"][0]
        names = ("difference", "low", "high", "p") if not i % 2 else [m for m in numbers if m[:4] in ("test", "trai")]
        field = rng.choice([n for n in names if isinstance(numbers[n], float)])
        numbers[field] *= 1 + rng.choice((-1, 1)) * 10 ** rng.uniform(-3, 0)
        sign_anew(table, content)
        assert different(check_sums(whole)) == []
        found = check_run("trial", line) if i % 2 else check_claims(table)
        where = f"trial {line['run']} metrics.{field}" if i % 2 else f"trial trial.error {field}"
        assert where in [f.where for f in different(found)]


def test_other_weights_are_not_those_of_the_row(whole):
    row, other = json.loads((whole / "trial.json").read_text())["rows"][:2]
    mine, theirs = (whole / "weights" / r["run"] for r in (row, other))
    shutil.copy(theirs / "weights.safetensors", mine)
    manifest = json.loads((mine / "manifest.json").read_text())
    manifest["files"]["weights.safetensors"] = other["weights_sha256"]
    sign_anew(mine / "manifest.json", manifest)
    where = [f.where for f in different(verify("cpu"))]
    assert f"trial {row['run']} weights_sha256" in where and f"trial {row['run']} metrics.test_sse_mean" in where
    assert not any(other["run"] in w for w in where)


def test_training_again_gives_the_weights_or_says_why_it_is_not_tried(whole, monkeypatch):
    table = whole / "trial.json"
    assert [f.state for f in check_training([table])] == ["holds"]
    content = json.loads(table.read_text())
    for row in content["rows"]:
        row["weights_sha256"] = "0" * 64
    sign_anew(table, content)
    (found,) = check_training([table], seed=1)
    assert found.state == "differs" and found.where.endswith(" weights_sha256")
    monkeypatch.setattr(module, "machine", lambda device: {"device": "cpu", "threads": 999})
    (found,) = check_training([table])
    assert found.state == "unknown" and "'threads': 999" in found.says


def test_the_command_ends_with_one_where_something_differs(whole):
    invoke = lambda *words: CliRunner().invoke(app, ["verify", *words])
    done = invoke("--rows", "1")
    assert done.exit_code == 0 and done.output.endswith("cpu: nothing differs\n"), done.output
    table = whole / "trial.json"
    content = json.loads(table.read_text())
    table.write_text(table.read_text()[:-100])
    done = invoke("--rows", "1")
    assert done.exit_code == 1 and f"trial.json: is other in {SUMS}" in done.output, done.output
    assert "Traceback" not in done.output and "nothing differs" not in done.output
    content["rows"][0]["run"] = 5
    sign_anew(table, content)
    done = invoke("--rows", "0")
    assert done.exit_code == 1 and "trial.json: cannot be checked (TypeError" in done.output, done.output
    table.write_text("{}")
    done = invoke("--write")
    assert done.exit_code == 1 and "trial.json: cannot be checked (KeyError('rows'))" in done.output


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_other_tools_read_the_list(evidence):
    done = subprocess.run(["sha256sum", "--strict", "-c", SUMS], cwd=evidence, capture_output=True, text=True)
    files = [p for p in evidence.rglob("*") if p.is_file()]
    assert done.returncode == 0 and done.stdout.count(": OK") == len(files) - 1, done.stdout + done.stderr


def test_committed_evidence_is_what_its_list_says():
    folders = {p.parent for p in (project_root() / "results").glob("*/*.json")}
    for folder in sorted(f for f in folders if f.name != "smoke"):
        found = [str(f) for f in different(check_sums(folder))]
        assert not found, f"`vcae verify --profile {folder.name} --write` after results changed: {found}"
