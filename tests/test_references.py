"Every work that the book cites is in its bibliography, and every entry can be found by a reader."

import json
import re

import pytest

from vcae_nb.core import project_root

ROOT = project_root()
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
ENTRIES = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", (ROOT / "nbs" / "references.bib").read_text(), re.M | re.S)


def cited(notebook):
    "The keys in brackets such as [@a; @b] in the prose of a notebook."
    cells = json.loads(notebook.read_text())["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    prose = re.sub(r"`[^`\n]*`", "", prose)
    return {key for group in re.findall(r"\[(@[^\]]+)\]", prose) for key in re.findall(r"@(\w+)", group)}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_citations_resolve(notebook):
    assert cited(notebook) <= {key for key, _ in ENTRIES}


def test_entries_are_complete():
    keys = [key for key, _ in ENTRIES]
    assert len(keys) == len(set(keys)) and keys == sorted(keys)
    for key, fields in ENTRIES:
        for name in ("author", "title", "year"):
            assert re.search(rf"^  {name} = \{{.+\}},$", fields, re.M), f"{key} has no {name}"
