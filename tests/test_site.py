"The built site, read as a visitor reads it: in a browser, with the network off."

import functools
import http.server
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag, urlparse

import kubernetes_validate
import nbformat
import pytest
import smalldocs
import torch
import yaml
from playwright.sync_api import expect, sync_playwright

import vcae_nb.book.site as book_site
from vcae_nb.book.pages import execute_book, notebooks, read_notebook
from vcae_nb.book.site import cited, made_files, readme_is_current, references, render
from vcae_nb.core import project_root, VcaeError
from vcae_nb.measure.experiment import git_commit
from vcae_nb.measure.explorer import traversal_explorer
from vcae_nb.measure.features import Route

ROOT = project_root()
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()

EVIL = "<script>window.evil = 1</script>"
CLAIMS = [
    {"id": "toy.rule", "statement": f"The rule {EVIL} picks the lambda of the paper.", "paper": "0.1", "ours": "x", "verdict": "not reproduced"},
    {"id": "toy.gap", "section": "6.1", "says": "The gap $\\sigma^2 < 1$ is there.", "paper": "1", "ours": "2", "verdict": "reproduced",
     "difference": 0.5, "low": 0.2, "high": 0.8, "n": 5, "unit": "SSE", "primary": True},
]
ROWS = [{"dataset": f"dots {EVIL}", "dataset_sha256": "a" * 64, "seed": s} for s in range(3)]
RESULTS = {"experiment": "toy", "rows": ROWS, "claims": CLAIMS, "provenance": {"commit": EVIL, "versions": {"torch": EVIL}}}
EXPLORER = """#| fig-cap: 'Two planes.'
import torch
from vcae_nb.measure.explorer import plane_explorer
decode = lambda z: torch.cat([z, z * z, z - 1, z.sin()], 1).view(-1, 1, 4, 2).sigmoid()
codes = torch.linspace(-2, 2, 200)[:, None] * torch.tensor([1.0, 0.5])
plane_explorer({"A <b>": decode, "B": lambda z: decode(-z)}, {"A <b>": codes, "B": -codes}, [0, 1] * 100, n=5)"""
CELLS = {
    "index": ["# The book\n\n> A small one.\n\nStart with [Core](301_core.ipynb) and [the toy](201_toy.ipynb).\n\n<!-- claims -->\n\n<!-- chapters -->"],
    "201_toy": [
        f"# A toy {EVIL}\n\n> Section 6.1: two dots {EVIL}.\n\nThe **total variance** $\\sum_i \\operatorname{{Var}}(z_i)$ of `VcaeError` [@braithwaite2020variance].\n\n$$ a^2 + b^2 = c^2 $$",
        {"parameters": 'profile: str = "smoke"\nseeds: int = 1'},
        {"code": "import json\nfrom pathlib import Path\n\nimport matplotlib.pyplot as plt\nimport pandas as pd\n\n%matplotlib inline"},
        {"code": f"results = json.loads({json.dumps(json.dumps(RESULTS))})\npath = Path('../results') / profile / 'toy.json'\npath.parent.mkdir(parents=True, exist_ok=True)\n_ = path.write_text(json.dumps(results | {{'profile': profile}}))"},
        {"code": "#| fig-cap: 'Rises with $\\sigma$.'\nplt.plot([1, 2])\nplt.show()"},
        {"code": "pd.DataFrame({f'a wide column {i}': [1.5] for i in range(12)})"},
        {"code": "print('a long line ' * 40)"},
        {"code": EXPLORER},
    ],
}  # fmt: skip


def write_book(root):
    "A small book in a project of its own: an index, the real chapter `core`, and an experiment."
    shutil.copytree(ROOT / "nbs" / "assets", root / "nbs" / "assets")
    for name in ("_quarto.yml", "settings.ini", "LICENSE", "CITATION.cff", "nbs/301_core.ipynb", "nbs/references.bib"):
        shutil.copy(ROOT / name, root / name)
    for name, cells in CELLS.items():
        nb = nbformat.v4.new_notebook()
        for cell in cells:
            if isinstance(cell, str):
                nb.cells.append(nbformat.v4.new_markdown_cell(cell))
            else:
                (kind, code), = cell.items()
                tags = {"tags": ["parameters"]} if kind == "parameters" else {}
                nb.cells.append(nbformat.v4.new_code_cell(code, metadata=tags))
        nbformat.write(nb, root / "nbs" / f"{name}.ipynb")
    return root


REAL = ["Quarto"] if shutil.which("quarto") and os.environ.get("VCAE_QUARTO") else []


@pytest.fixture(scope="module", params=["smalldocs", *REAL])
def site(request, tmp_path_factory):
    "The small book at two scales, rendered; by Quarto, too, where VCAE_QUARTO=1 asks for it."
    root = write_book(tmp_path_factory.mktemp("book"))
    execute_book("smoke", names=["index", "toy"], root=root)
    execute_book("cpu", names=["toy"], root=root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCAE_SITE_URL", "https://example.org/book")
        if request.param == "smalldocs":
            patch.setattr(book_site, "renderer", lambda: ("smalldocs", smalldocs.__version__))
        return render(root).parent


class Links(HTMLParser):
    "The links, the ids, the headings and the pictures of a page."

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.tags, self.images = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if attrs.get("id") else []
        self.images += [attrs] if tag == "img" else []
        if tag != "base":
            self.links += [attrs[k] for k in ("href", "src") if attrs.get(k)]


def dead_links(site):
    found = {p: Links(p.read_text()) for p in site.rglob("*.html")}
    for page, links in found.items():
        for link in links.links:
            url, fragment = urldefrag(link)
            if urlparse(link).scheme:
                continue
            target = (page.parent / unquote(url)).resolve() if url else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (fragment and target in found and unquote(fragment) not in found[target].ids):
                yield f"{page.relative_to(site)}: {link}"


def test_no_dead_links(site):
    assert list(dead_links(site)) == []


def test_nothing_from_elsewhere(site):
    asks = r"""<(?:script|img|iframe|link[^>]*stylesheet)[^>]*\s(?:src|href)=["']https?://"""
    for page in site.rglob("*.html"):
        assert not re.search(asks, page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import[^;]*https?://", style.read_text()), style


def test_pages_are_well_formed(site):
    for page in site.rglob("*.html"):
        found = Links(page.read_text())
        assert [i for i, n in Counter(found.ids).items() if n > 1] == [], page
        assert found.tags.count("h1") == 1 and all(image.get("alt") for image in found.images), page


def test_result_first(site):
    main, smoke = (site / "toy.html").read_text(), (site / "smoke" / "toy.html").read_text()
    first = main.index('class="verdicts"')
    assert first < main.index("Run card: cpu profile") < main.index("total variance</strong>")
    assert "difference 0.5 [0.2, 0.8] SSE, 5 seeds" in re.sub("<[^>]*>", "", main)
    assert "Run card: smoke profile" in smoke and "is no evidence" in smoke
    for page, files in ((main, ("notebooks/201_toy.ipynb", "results/cpu/toy.json")), (smoke, ("../notebooks/smoke-toy.ipynb",))):
        assert all(f'href="{file}"' in page for file in files)


def test_smoke_pages_are_not_found(site):
    found = {entry["href"].partition("#")[0] for entry in json.loads((site / "search.json").read_text())}
    assert "toy.html" in found and not any(href.startswith("smoke/") for href in found)


def test_text_from_files_is_text(site):
    for page in site.rglob("*.html"):
        assert EVIL not in page.read_text(), page
    assert "window.evil" in (site / "claims.html").read_text()  # it is there, as text


def test_for_the_web(site):
    for page in ("toy.html", "404.html"):
        assert "https://example.org/book/" in (site / page).read_text()
    assert "https://example.org/book/toy.html" in (site / "sitemap.xml").read_text()
    assert git_commit() == "unknown" or f"({git_commit()})" in (site / "toy.html").read_text()
    assert 'property="og:image"' in (site / "toy.html").read_text() and (site / ".nojekyll").is_file()


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    "Opens a page and says what went wrong on the way."
    contexts = []

    def opened(url, width=1280, dark=False):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        contexts.append(context)
        page, problems = context.new_page(), []
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        local = lambda url: urlparse(url).scheme in ("file", "data", "blob") or urlparse(url).hostname == "127.0.0.1"
        page.on("request", lambda r: None if local(r.url) else problems.append(f"asks for {r.url}"))
        page.goto(url)
        page.wait_for_timeout(100)
        return page, problems

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_pages_open_without_errors(site, visit, width, dark):
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":
            continue  # its links start at the address of the site
        page, problems = visit(path.as_uri(), width, dark)
        assert problems == [], path
        assert page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0, path
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{path} is wider than the window"
        cut = "[...document.querySelectorAll('main pre')].filter(p => p.scrollWidth > p.clientWidth + 1).length"
        assert page.evaluate(cut) == 0, f"{path}: code is cut off"
        assert page.evaluate("!window.evil")


@needs_browser
def test_keyboard(site, visit):
    page, _ = visit((site / "toy.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip-link"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "MAIN"
    header = page.locator(".run-card .callout-header")
    header.focus()
    page.keyboard.press("Enter")
    page.locator(".run-card table").wait_for(state="visible")


@needs_browser
def test_landmarks_have_names(site, visit):
    page, _ = visit((site / "toy.html").as_uri())
    names = page.evaluate("[...document.querySelectorAll('nav')].map(n => n.getAttribute('aria-label'))")
    assert all(names) and len(set(names)) == len(names)


@needs_browser
def test_pictures_are_sharp(site, visit):
    page, _ = visit((site / "toy.html").as_uri())
    assert page.evaluate("(i => i.naturalWidth / i.clientWidth)(document.querySelector('figure img'))") > 1.9


@needs_browser
def test_claims_can_be_filtered(site, visit):
    page, _ = visit((site / "claims.html").as_uri() + "#claim-toy.gap")
    assert page.locator("tr:target").inner_text().startswith("✓ reproduced")
    shown = lambda: page.locator("table.verdicts tr[id]:visible").count()
    assert shown() == 2
    page.get_by_role("button", name="✗ contradicted").click()
    assert shown() == 1
    page.get_by_role("searchbox", name="Only claims").fill("no such words")
    assert shown() == 0


@needs_browser
def test_formulas_and_code_words(site, visit):
    page, _ = visit((site / "toy.html").as_uri())
    page.wait_for_function("document.querySelectorAll('main .katex').length >= 4")
    assert page.locator(".katex-error").count() == 0
    assert page.evaluate("document.fonts.ready.then(() => document.fonts.check('16px KaTeX_Main'))")
    link = page.evaluate("document.querySelector('main a code').parentElement.getAttribute('href')")
    assert link.removeprefix("./") == "core.html#api-VcaeError"


@needs_browser
def test_print_is_the_text_alone(site, visit):
    page, _ = visit((site / "toy.html").as_uri(), dark=True)
    page.emulate_media(media="print")
    for part in ("#quarto-header", "#quarto-sidebar"):
        assert not page.locator(part).is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('main p')).color") == "rgb(17, 17, 17)"


@pytest.fixture(scope="module")
def served(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@needs_browser
@pytest.mark.parametrize("from_file", [True, False])
def test_search(site, served, visit, from_file):
    page, problems = visit((site / "index.html").as_uri() if from_file else served)
    opener = page.locator("#quarto-search button:visible, .smalldocs-search button:visible")
    if opener.count():
        opener.first.click()
    box = page.locator(".smalldocs-search input, .aa-Input").first
    box.click()
    box.press_sequentially("total variance")
    page.wait_for_function("[...document.querySelectorAll('a')].some(a => /toy\\.html/.test(a.href) && /total variance/i.test(a.textContent.replace(/\\s+/g, ' ')))")
    assert problems == []


@needs_browser
def test_dark_mode_stays(site, visit):
    page, _ = visit((site / "index.html").as_uri())
    page.locator(".quarto-color-scheme-toggle:visible").first.click()
    page.goto((site / "toy.html").as_uri())
    page.wait_for_function("document.querySelector('html.quarto-dark, body.quarto-dark')")


PIXELS = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 == 0)"
Z = [-1.98, -0.99, 0.0, 0.99, 1.98]  # the codes along an edge of the toy's planes: 99 % of its range


def decoded(x, y):
    "What the toy's first decoder says, in grey levels."
    z = torch.tensor([[x, y]])
    return (255 * torch.cat([z, z * z, z - 1, z.sin()], 1).sigmoid()).flatten().tolist()


@pytest.fixture
def explorer(site, visit):
    "An explorer on a page, at the code in the middle."

    def opened(**look):
        page, problems = visit((site / "toy.html").as_uri(), **look)
        page.locator(".vcae-explorer.vx-live").wait_for()
        found = page.locator(".vcae-explorer")
        found.evaluate("e => e.scrollIntoView({ behavior: 'instant' })")

        def is_at(x, y):
            code = f"z = ({x:.2f}, {y:.2f})".replace("-", "\u2212")
            expect(found.locator("output")).to_contain_text(code)

        is_at(0, 0)
        return page, found, is_at, problems

    return opened


@needs_browser
@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_explorer_decodes_what_the_pointer_is_over(explorer, width, dark):
    page, found, is_at, problems = explorer(width=width, dark=dark)
    box = found.locator("svg").nth(1).bounding_box()
    for column, row in ((0, 0), (4, 1), (2, 3)):
        page.mouse.move(box["x"] + (column + 0.5) * box["width"] / 5, box["y"] + (row + 0.5) * box["height"] / 5)
        x, y = Z[column], Z[4 - row]
        is_at(x, y)
        for canvas, z in zip(found.locator("canvas").all(), ((x, y), (-x, -y))):
            assert canvas.evaluate(PIXELS) == pytest.approx(decoded(*z), abs=1.01)
    assert problems == []


@needs_browser
def test_explorer_by_keyboard_and_for_ears(explorer):
    page, found, is_at, problems = explorer()
    plane = found.get_by_role("application", name="A <b>: the plane of codes")
    plane.evaluate("p => p.focus({ preventScroll: true })")
    for key, z in (("ArrowRight", (0.99, 0)), ("ArrowUp", (0.99, 0.99)), ("Shift+ArrowLeft", (-1.98, 0.99)), ("Home", (0, 0))):
        before = page.evaluate("scrollY")
        page.keyboard.press(key)
        is_at(*z)
        assert page.evaluate("scrollY") == before
    assert found.get_by_role("status").inner_text().endswith("A <b>: among codes of 1. B: among codes of 0.")
    assert found.get_by_role("img", name="B: the decoded code").count() == 1 and problems == []


@needs_browser
def test_sliders(tmp_path, visit):
    "With a decoder that says its code in two colours."
    colours = lambda z, device: torch.cat([z, z[:, :1] * 0], 1)[..., None, None].expand(-1, -1, 2, 2)
    run = SimpleNamespace(model=SimpleNamespace(is_image=True), spec=SimpleNamespace(z_dim=2), decode=colours)
    way = Route(None, torch.tensor([[0.2, 0.4], [1.0, 0.6]]), torch.zeros(2), torch.ones(2), "a test")
    made = traversal_explorer(run, way, items=(0, 1), steps=6, names=["red", "green"])
    (tmp_path / "sliders.html").write_text(f"<!doctype html><meta charset=utf-8><body>{made.data}")
    page, problems = visit((tmp_path / "sliders.html").as_uri())
    page.locator(".vx-live").wait_for()
    shown = lambda: [c.evaluate("c => [...c.getContext('2d').getImageData(1, 1, 1, 1).data].slice(0, 3)") for c in page.locator("canvas").all()]
    near = lambda *colours: [pytest.approx([255 * v for v in colour], abs=1.01) for colour in colours]
    assert shown() == near((0.2, 0.4, 0), (0.2, 0.4, 0))
    slider = page.get_by_role("slider", name="feature 2: green")
    slider.focus()
    page.keyboard.press("End")
    assert shown() == near((0.2, 0.4, 0), (0.2, 1, 0)) and slider.get_attribute("aria-valuetext") == "1.00"
    page.get_by_role("combobox", name="start from picture").select_option("2")
    assert shown() == near((1, 0.6, 0), (1, 0.6, 0)) and problems == []


QUARTO = """#!{python}
import pathlib, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print("1.9.38"))
folder = pathlib.Path(sys.argv[2])
pathlib.Path(folder.parent / "asked").write_text(" ".join(sys.argv[1:]))
libs = folder / "_site" / "site_libs"
for name, text in {{
    "bootstrap/b.css": '@import"https://fonts.example/css2?family=X:wght@300;400;700&display=swap";a{{}}',
    "quarto-search/quarto-search.js": "var shownWarning = false;",
    "quarto-html/quarto.js": "import * as tabsets from './tabsets/tabsets.js';\\ntabsets.init();",
    "quarto-html/tabsets/tabsets.js": "export function init() {{}}",
}}.items():
    (libs / name).parent.mkdir(parents=True, exist_ok=True)
    (libs / name).write_text(text)
(folder / "_site" / "index.html").write_text('''<head><script src="https://cdn.example/require.js"></script>
<script type="application/javascript">define('jquery', [], () => 1)</script><link rel="canonical" href="https://a.org/">
<script src="site_libs/quarto-html/quarto.js" type="module"></script>
<script src="site_libs/quarto-html/tabsets/tabsets.js" type="module"></script></head>
<script>const f = () => {{ return window.location.protocol === 'file:' }}</script>''')
print("WARN: a warning", file=sys.stderr)
"""


def test_quarto_is_called_and_mended(tmp_path, monkeypatch, capsys):
    "With a Quarto that writes what the true one does where its pages ask elsewhere or need a server."
    root, path = write_book(tmp_path / "book"), tmp_path / "bin"
    path.mkdir()
    (path / "quarto").write_text(QUARTO.format(python=sys.executable))
    (path / "quarto").chmod(0o755)
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    front = render(root).read_text()
    assert (root / "asked").read_text() == f"render {root / '_proc'}"
    assert "WARN: a warning" in capsys.readouterr().out
    config = yaml.safe_load((root / "_proc" / "_quarto.yml").read_text())
    assert "pre-render" not in config["project"] and "Quarto 1.9.38" in config["website"]["page-footer"]["right"]
    libs = root / "_site" / "site_libs"
    assert (libs / "bootstrap/b.css").read_text() == "a{}"
    assert "shownWarning = true" in (libs / "quarto-search/quarto-search.js").read_text()
    main = (libs / "quarto-html/quarto.js").read_text()
    assert "import" not in main and "const tabsets" in main and "export" not in main
    assert "require.js" not in front and "define(" not in front and 'rel="canonical"' in front
    assert 'quarto.js" defer' in front and "tabsets.js" not in front and "protocol" not in front


def test_quarto_in_the_root_says_what_to_do():
    hook = yaml.safe_load((ROOT / "_quarto.yml").read_text())["project"]["pre-render"]
    done = subprocess.run([sys.executable, hook], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "run `vcae site`" in done.stderr


def test_nbdev_docs_says_what_to_do():
    named = re.search(r"^procs = (.*):(.*)$", (ROOT / "settings.ini").read_text(), re.M)
    assert named[1] == book_site.__name__
    with pytest.raises(SystemExit, match="`vcae site`, and `make readme`"):
        getattr(book_site, named[2])({})


SWAP = f"""
import ctypes, os, shutil, sys
from pathlib import Path
{inspect.getsource(book_site.sync)}
{inspect.getsource(book_site.swap)}
place, n = Path(sys.argv[1]), 0
while True:
    n += 1
    new = place.with_name("new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for name in "abc":
        (new / name).write_text(str(n))
    swap(new, place, place.with_name("aside"))
    print(n, flush=True)
"""


def test_site_is_whole_whenever_it_is_killed(tmp_path):
    place = tmp_path / "site"
    for i in range(8):
        job = subprocess.Popen([sys.executable, "-c", SWAP, place], stdout=subprocess.PIPE, text=True)
        job.stdout.readline()
        time.sleep(0.003 * i)
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert len({(place / name).read_text() for name in "abc"}) == 1


def test_swap_without_exchange(tmp_path, monkeypatch):
    "Where folders cannot be exchanged, a swap that was cut short is mended by the next."
    new, place, aside = (tmp_path / n for n in ("new", "place", "aside"))
    monkeypatch.setattr(book_site.ctypes, "CDLL", lambda name: None)
    for folder, says in ((new, "2"), (aside, "1")):
        folder.mkdir()
        (folder / "index.html").write_text(says)
    book_site.swap(new, place, aside)
    assert (place / "index.html").read_text() == "2" and not aside.exists() and not new.exists()


def test_two_renders_at_once(tmp_path, monkeypatch):
    root = write_book(tmp_path / "book")
    monkeypatch.setattr(book_site, "renderer", lambda: ("smalldocs", smalldocs.__version__))
    with ThreadPoolExecutor(2) as pool:
        fronts = list(pool.map(render, [root, root]))
    assert fronts[0] == fronts[1] and fronts[0].is_file() and (root / "_site" / "toy.html").is_file()


def test_readme():
    assert readme_is_current(), "README.md or results/CLAIMS.md is not what it is made from; run `make readme`"
    assert len(made_files()["README.md"]) < 7000


def test_citations_resolve():
    known = references()
    for chapter in notebooks():
        for cell in read_notebook(chapter.path).cells:
            if cell.cell_type == "markdown":
                cited(cell.source, known)
    with pytest.raises(VcaeError, match="unknown citation"):
        cited("[@nobody1900]", known)


@pytest.mark.parametrize("version", ["1.29", "1.33"])
def test_kubernetes_manifest(version):
    claim, job = yaml.safe_load_all((ROOT / "examples" / "kubernetes.yaml").read_text())
    for document in (claim, job):
        kubernetes_validate.validate(document, version, strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "train" and job["spec"]["completionMode"] == "Indexed"
    assert container["image"] in (ROOT / "Dockerfile").read_text()


def test_image_copies_what_is_there():
    for line in re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M):
        assert all((ROOT / name).exists() for name in line.split()), line
        allowed = (ROOT / ".dockerignore").read_text().splitlines()
        assert all(f"!{name}" in allowed for name in line.split()), line


def test_workflow_trains_nothing():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "vcae site" in text and "vcae run" not in text and "make reproduce" not in text
    assert set(yaml.safe_load(text)["jobs"]) == {"tests", "site"}
