// Chapters come first: what lists, logs or repeats weighs less. Names of the API keep their place.
const LESS = { "book/changelog": 0.2, "book/laws": 0.2, "book/status": 0.2, "book/choices": 0.5,
               "book/results": 0.5, "book/api": 0.3 };
var Scorer = {
  score: ([page, , , , score]) => score * (LESS[page] ?? 1),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
// Excerpts show words: P(T | I), not P(T \mid I) between backslashes.
const GREEK = { alpha: "α", beta: "β", sigma: "σ", theta: "θ", phi: "φ", pi: "π", mu: "μ", mid: "|",
                in: "∈", to: "→", cdot: "·", times: "×", circ: "°", log: "log", exp: "exp", sum: "∑", int: "∫",
                infty: "∞", le: "≤", ge: "≥", approx: "≈", pm: "±", sim: "∼", prod: "∏", partial: "∂" };
const words = tex => tex.replace(/\\[()[\]]/g, "").replace(/\\tag\{.*?\}/g, "")
  .replace(/\\([a-zA-Z]+)/g, (_, name) => GREEK[name] ?? "").replace(/[{}\\]/g, "");
document.addEventListener("DOMContentLoaded", () => {
  const read = Search.htmlToText;
  Search.htmlToText = (text, anchor) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    page.querySelectorAll(".math").forEach(e => { e.textContent = words(e.textContent); });
    page.querySelectorAll("nav, footer, .onlyprint, .bd-header-article, .bd-sidebar-secondary").forEach(e => e.remove());
    return read(page.documentElement.outerHTML, anchor);
  };
});
