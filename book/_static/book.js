// The theme leaves the book's name outside all landmarks.
addEventListener("DOMContentLoaded", () => {
  const name = document.querySelector(".navbar-brand")?.parentElement;
  name?.setAttribute("role", "navigation");
  name?.setAttribute("aria-label", "Book");
  // A list of references has items.
  document.querySelectorAll(".citation-list > .citation").forEach(e => e.setAttribute("role", "listitem"));
  // A number and its spread stay on one line.
  document.querySelectorAll("article td").forEach(e => { if (/^\S+ ± \S+$/.test(e.textContent.trim())) e.style.whiteSpace = "nowrap"; });
});
// Labels of 10 points are 9 pixels high where an inch of a figure has 65: on a phone wide figures scroll.
const perInch = e => e.src.startsWith("data:image/webp") ? 80 : e.src.endsWith(".svg") ? 96 : 100;  // as they are drawn
const legible = e => { e.style.minWidth = `${e.naturalWidth * 65 / perInch(e)}px`; };
addEventListener("DOMContentLoaded", () => document.querySelectorAll("article :is(.cell_output, .chart) img").forEach(e => {
  if (e.complete) legible(e); else e.addEventListener("load", () => { legible(e); scrollers(); });
}));
// What scrolls by itself can be reached by keyboard; what fits is no tab stop.
const scrollers = () => document.querySelectorAll("article :is(pre, table, div.math, div.cell_output, figure.chart, dt, .pst-scrollable-table-container)").forEach(e => {
  if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible") e.tabIndex = 0;
  else if (e.getAttribute("tabindex") === "0") e.removeAttribute("tabindex");
});
// Formulas are set, and as wide as they stay, once their fonts are there.
addEventListener("load", async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; scrollers(); });
addEventListener("resize", scrollers);
