"Every work that the book cites is in its bibliography, every entry can be found by a reader, and so can every figure that prose refers to."

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


def test_figures_are_found():
    "Labels are given once, to a cell with a caption, and prose refers to these alone."
    labels, asked = [], set()
    for notebook in NOTEBOOKS:
        for cell in json.loads(notebook.read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                asked |= set(re.findall(r"(?<![\w@])@(fig-[\w-]*\w)", re.sub(r"`[^`\n]*`", "", source)))
            else:
                labels += [(m, "#| fig-cap:" in source) for m in re.findall(r"^#\| *label: *(.+)$", source, re.M)]
    names = [name for name, captioned in labels if captioned and name.startswith("fig-")]
    assert len(names) == len(set(names)) == len(labels) and asked and asked <= set(names)
