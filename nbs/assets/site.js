// A page opened as a file may not fetch; the search index is then read as a script.
if (location.protocol === "file:") {
  const here = document.currentScript.src.replace(/assets\/site\.js$/, "");
  const fetched = window.fetch;
  window.fetch = (url, ...rest) =>
    !String(url).endsWith("search.json")
      ? fetched(url, ...rest)
      : new Promise((resolve, reject) => {
          const script = document.createElement("script");
          script.src = here + "search.js";
          script.onload = () => resolve({ ok: true, json: async () => window.searchIndex });
          script.onerror = reject;
          document.head.append(script);
        });
}
