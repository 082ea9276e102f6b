// What the pages need beside their renderer's scripts: the same for Quarto and for smalldocs.
const root = document.currentScript.src.replace(/assets\/site\.js.*$/, "");

// A page opened as a file may not fetch; the search index is then read as a script.
if (location.protocol === "file:") {
  const fetched = window.fetch;
  window.fetch = (url, ...rest) =>
    !String(url).endsWith("search.json")
      ? fetched(url, ...rest)
      : load("script", { src: root + "search.js" }).then(() => ({
          ok: true, status: 200, json: async () => window.searchIndex, text: async () => JSON.stringify(window.searchIndex),
        }));
}

function load(tag, attributes) {
  return new Promise((resolve, reject) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.onload = resolve;
    element.onerror = reject;
    document.head.append(element);
  });
}

const all = (selector, change) => document.querySelectorAll(selector).forEach(change);

// Formulas in text that comes from files.
async function formulas() {
  const found = document.querySelectorAll("span.tex");
  if (!found.length) return;
  if (!window.katex) {
    await Promise.all([
      load("link", { rel: "stylesheet", href: root + "assets/katex/katex.min.css" }),
      load("script", { src: root + "assets/katex/katex.min.js" }),
    ]);
  }
  found.forEach((e) => window.katex.render(e.textContent, e, { throwOnError: false }));
}

// Keyboard and screen readers.
function accessible() {
  all("i.bi", (i) => { i.setAttribute("aria-hidden", "true"); i.removeAttribute("role"); });
  all(".callout-header[data-bs-toggle]", (h) => {
    h.setAttribute("role", "button");
    h.tabIndex = 0;
    h.onkeydown = (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); h.click(); } };
  });
  all("a.sidebar-link[data-bs-toggle]:not([href]), a.sidebar-item-toggle:not([href])", (a) => {
    a.setAttribute("role", "button");
    a.tabIndex = 0;
    a.onkeydown = (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); a.click(); } };
  });
  all("#quarto-sidebar", (nav) => nav.setAttribute("aria-label", "Book"));
  document.querySelectorAll("#quarto-header nav").forEach((nav, i) => nav.setAttribute("aria-label", i ? "Menu" : "Site"));
  all("#TOC", (nav) => nav.setAttribute("aria-label", "On this page"));
  all("nav.page-navigation, nav.nav-page", (nav) => nav.setAttribute("aria-label", "Next and previous"));
  all(".cell-output-display, .cell-output pre, .scroll, .katex-display, div.sourceCode, pre.sourceCode, main pre, main table, .sd-table", (box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
  });
  const main = document.querySelector("main");
  if (main && !document.getElementById("quarto-document-content")) main.id = "quarto-document-content";
  if (main) main.tabIndex = -1;
  const bar = document.querySelector("#quarto-sidebar"), here = bar?.querySelector(".sidebar-link.active");
  const below = here ? here.getBoundingClientRect().bottom - bar.getBoundingClientRect().bottom : 0;
  if (below > 0) bar.scrollTop += below; // (scrollIntoView would move where the Tab key starts)
}

// Those who want no motion see the first picture of a film.
function still() {
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  all('img[src^="data:image/gif"]', (image) => {
    const draw = () => {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      canvas.getContext("2d").drawImage(image, 0, 0);
      image.src = canvas.toDataURL();
    };
    image.complete ? draw() : image.addEventListener("load", draw, { once: true });
  });
}

// The page of all claims: by verdict, and by words.
function filter() {
  const box = document.querySelector("div.filter"), rows = document.querySelectorAll("table.verdicts tr[id]");
  if (!box) return;
  const word = Object.assign(document.createElement("input"), { type: "search", className: "form-control", placeholder: "words" });
  word.setAttribute("aria-label", "Only claims with these words");
  const names = [...new Set([...rows].map((r) => r.className))];
  const chosen = new Set(names);
  const said = Object.assign(document.createElement("span"), { role: "status" });
  const show = () => {
    const words = word.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    rows.forEach((r) => {
      const text = r.textContent.toLowerCase();
      r.hidden = !chosen.has(r.className) || !words.every((w) => text.includes(w));
      n += !r.hidden;
    });
    all("table.verdicts tbody", (body) => { body.hidden = ![...body.querySelectorAll("tr[id]")].some((r) => !r.hidden); });
    said.textContent = `${n} of ${rows.length}`;
  };
  names.forEach((name) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "btn btn-sm btn-outline-secondary" });
    button.textContent = [...rows].find((r) => r.className === name).cells[0].textContent;
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => {
      chosen.has(name) ? chosen.delete(name) : chosen.add(name);
      button.setAttribute("aria-pressed", chosen.has(name));
      show();
    };
    box.append(button);
  });
  word.oninput = show;
  box.append(word, said);
  show();
}

document.addEventListener("DOMContentLoaded", () => { accessible(); formulas(); still(); filter(); });
