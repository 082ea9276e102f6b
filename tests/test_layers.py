"The library is a stair: a module imports from layers below its own, and within it; never upwards, never in a circle."

import ast
from graphlib import TopologicalSorter

from vcae_nb.core import project_root

LAYERS = ("core", "kept", "data", "method", "measure", "experiments", "book")
ROOT = project_root()
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in (ROOT / "vcae_nb").rglob("*.py")}


def imports(module):
    "Which of our modules a module imports, at its top or inside a function."
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        else:
            continue
        yield from {n if n in MODULES else n.rpartition(".")[0] for n in names} & MODULES.keys()


def test_imports_point_down():
    arrows = {m: set(imports(m)) for m in MODULES if not m.split(".")[-1].startswith("_")}
    level = {m: LAYERS.index(m.split(".")[1]) for m in arrows}
    assert len(arrows) > 15 and set(level.values()) == set(range(len(LAYERS)))
    assert [f"{a} -> {b}" for a in arrows for b in arrows[a] if level[a] < level[b]] == []
    tuple(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle
