"The built site, read as a visitor reads it: in a browser, with the network off."

import functools
import http.server
import itertools
import json
import re
import shutil
import subprocess
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import nbformat
import pytest
import websocket

from vcae_nb.book.pages import execute_book
from vcae_nb.core import project_root
from vcae_nb.book.site import readme_is_current, render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


class Browser:
    "A headless Chromium, spoken to through its DevTools protocol."

    def __init__(self, folder: Path):
        flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --no-first-run --remote-debugging-port=0".split()
        flags += ["--remote-allow-origins=*", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder}"]
        self.process = subprocess.Popen([CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file, ids = folder / "DevToolsActivePort", itertools.count(1)
        deadline = time.monotonic() + 60
        while not (port_file.is_file() and len(port_file.read_text().splitlines()) == 2):
            assert self.process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.05)
        port, path = port_file.read_text().splitlines()
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=60)
        self.ids, self.session, self.events = ids, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self.ids)
        message = {"id": number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, url, width=1280, dark=False):
        "Load a page and wait for it; return what went wrong on the way."
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        time.sleep(0.1)
        self.js("0")
        return self.problems()

    def problems(self):
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"]["text"])
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
                found.append(str(params["args"]))
            elif event["method"] == "Network.requestWillBeSent":
                url = urlparse(params["request"]["url"])
                if url.scheme in ("http", "https") and url.hostname != "127.0.0.1":
                    found.append(f"asks the network for {params['request']['url']}")
        return found

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < deadline, f"waited in vain for {condition}"
            time.sleep(0.05)

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


CLAIMS = """from vcae_nb.measure.results import claims_table, make_claim

says = "The rule that the total variance should be nearest to 16 picks the lambda of the paper for this model."
ours = "λ = 0.05 has 16.02, λ = 0.1 has 16.06; ±0.10 from seed to seed, over as many seeds as there are"
claims_table({"experiment": "toy", "profile": profile, "claims": [make_claim("toy.rule", says, "λ = 0.1 has 16.05", ours, "not reproduced")]})"""
CELLS = {
    "index": ["# The book\n\n> A small one.\n\nStart with [Core](301_core.ipynb) and [the toy](11_toy.ipynb)."],
    "11_toy": [
        "# A toy\n\n> Two dots.\n\nThe **total variance** $\\sum_i \\operatorname{Var}(z_i)$ of `VcaeError`.\n\n$$ a^2 + b^2 = c^2 $$",
        {"parameters": 'profile: str = "smoke"\nseeds: int = 1'},
        {"code": "import matplotlib.pyplot as plt\nimport pandas as pd"},
        {"code": "plt.plot([1, 2])\nplt.show()"},
        {"code": "pd.DataFrame({f'a wide column {i}': [1.5] for i in range(12)})"},
        {"code": CLAIMS},
    ],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A small book in a project of its own: an index, the real chapter `core`, and an experiment at two scales."
    root, here = tmp_path_factory.mktemp("book"), project_root()
    shutil.copytree(here / "nbs" / "assets", root / "nbs" / "assets")
    for name in ("_quarto.yml", "settings.ini", "nbs/301_core.ipynb"):
        shutil.copy(here / name, root / name)
    for name, cells in CELLS.items():
        nb = nbformat.v4.new_notebook()
        for cell in cells:
            if isinstance(cell, str):
                nb.cells.append(nbformat.v4.new_markdown_cell(cell))
            else:
                (kind, code), = cell.items()
                nb.cells.append(nbformat.v4.new_code_cell(code, metadata={"tags": ["parameters"]} if kind == "parameters" else {}))
        nbformat.write(nb, root / "nbs" / f"{name}.ipynb")
    execute_book("smoke", names=["index", "toy"], root=root)
    execute_book("cpu", names=["toy"], root=root)
    return render(root).parent


class Links(HTMLParser):
    "The links and the anchors of a page."

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
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
    for page in site.rglob("*.html"):
        assert not re.search(r"""<(?:script|link|img|iframe)[^>]*\s(?:src|href)=["']https?://""", page.read_text()), page


def test_scale_is_said(site):
    main, smoke = (site / "toy.html").read_text(), (site / "smoke" / "toy.html").read_text()
    assert "Run card: cpu profile" in main and "no evidence" not in main
    assert "Run card: smoke profile" in smoke and "is no evidence" in smoke


@needs_browser
@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_pages_open_without_errors(site, browser, width, dark):
    for page in sorted(site.rglob("*.html")):
        assert browser.open(page.as_uri(), width, dark) == [], page
        assert browser.js("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0, page
        assert browser.js("document.documentElement.scrollWidth <= window.innerWidth"), f"{page} is wider than the window"


@needs_browser
def test_claims_can_be_read(site, browser):
    browser.open((site / "toy.html").as_uri())
    fits = "(t => t.getBoundingClientRect().width <= t.closest('.cell-output-display').clientWidth)"
    assert browser.js(f"{fits}(document.querySelector('table.claims'))"), "the claims have to be scrolled"
    number, claim, paper, ours, verdict, scale = browser.js("[...document.querySelector('table.claims tbody tr').cells].map(c => c.clientWidth)")
    assert claim > 4 * number and claim > verdict
    assert browser.js("(c => { const r = document.createRange(); r.selectNodeContents(c); return r.getClientRects().length })(document.querySelector('table.claims tbody tr').cells[4])") == 1


@needs_browser
def test_formulas_and_code_words(site, browser):
    browser.open((site / "toy.html").as_uri())
    browser.wait("document.querySelectorAll('main .katex').length >= 2")
    assert browser.js("document.querySelectorAll('.katex-error').length") == 0
    assert browser.js("document.fonts.ready.then(() => document.fonts.check('16px KaTeX_Main'))")
    assert browser.js("document.querySelector('main a code').parentElement.getAttribute('href')") == "core.html#api-vcaeerror"


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
def test_search(site, served, browser, from_file):
    if from_file and not (site / "search.js").is_file():
        pytest.skip("Quarto's search wants a server")
    assert browser.open((site / "index.html").as_uri() if from_file else served) == []
    browser.js("document.querySelector('#quarto-search input, .smalldocs-search input, #quarto-search button')?.click()")
    typed = "i => { i.focus(); i.value = 'total variance'; i.dispatchEvent(new Event('input', {bubbles: true})) }"
    browser.wait("!!document.querySelector('.smalldocs-search input, .aa-Input')")
    browser.js(f"[...document.querySelectorAll('.smalldocs-search input, .aa-Input')].forEach({typed})")
    browser.wait("[...document.querySelectorAll('a')].some(a => /toy\\.html/.test(a.href) && /total variance/i.test(a.textContent.replace(/\\s+/g, ' ')))")


def test_readme():
    if (project_root() / "nbs" / "index.ipynb").is_file():
        assert readme_is_current(), "README.md is not what nbs/index.ipynb makes; run `vcae site`"
