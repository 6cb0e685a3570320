"use strict";
// Both are extras: the page reads the same without them.
for (const table of document.querySelectorAll("table.headline")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.sort;
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      table.querySelectorAll("thead th").forEach((cell) => cell.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const shown = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const keyed = [...body.rows].map((row) => [shown(row), row]);
      const isMissing = (text) => Number(text === "" || text === "nan" || text === "–");
      const sign = order === "ascending" ? 1 : -1;
      const between = (a, b) => {
        const difference = Number(a) - Number(b);
        return Number.isNaN(difference) ? a.localeCompare(b, "en", { numeric: true }) : difference;
      };
      keyed.sort(([a], [b]) => isMissing(a) - isMissing(b) || sign * between(a, b));
      body.append(...keyed.map(([, row]) => row));
    });
  });
}
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-15% 0px -75% 0px" });
document.querySelectorAll("section[id]").forEach((section) => watcher.observe(section));
