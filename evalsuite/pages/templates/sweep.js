// A field to search the table by; without it the table is whole.
for (const table of document.querySelectorAll("table.cells")) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 10) continue;
  const field = document.createElement("input");
  field.type = "search";
  field.className = "found";
  field.placeholder = `Show those of ${rows.length} cells that have all these words`;
  field.setAttribute("aria-label", field.placeholder);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, index) => { row.hidden = !words.every((word) => texts[index].includes(word)); });
  });
  table.parentElement.before(field);
}
