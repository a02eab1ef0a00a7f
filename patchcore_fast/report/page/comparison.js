"use strict";
// Tables that sort by a click on a heading. No library, no network.
(() => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const first = head.dataset.first, now = head.getAttribute("aria-sort");
      const order = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column]?.dataset.value;
      body.append(...[...body.rows].sort((a, b) => {
        if (column === 0) return sign * a.cells[0].textContent.localeCompare(b.cells[0].textContent, "en", { numeric: true });
        const x = value(a), y = value(b);
        if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);  // what is not known comes last
        return sign * (Number(x) - Number(y));
      }));
    }));
  }
})();
