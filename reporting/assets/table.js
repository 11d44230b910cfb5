"use strict";
// A table of scores that is sorted by its headings.
(() => {
  const table = $("scores"), body = table.tBodies[0], original = [...body.rows];
  const number = (row, column) => parseFloat(row.cells[column].textContent.replaceAll(",", ""));

  function sortBy(column, ascending) {
    const rows = [...original];
    rows.sort((a, b) => {
      const [x, y] = [number(a, column), number(b, column)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // without a value: last
      return ascending ? x - y : y - x;
    });
    body.append(...rows);
    for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }

  function sortWorst(column) {
    const head = table.tHead.rows[0].cells[column];
    sortBy(column, Number(head.dataset.direction) >= 0);
    $("order").textContent = `worst first by ${head.textContent}`;
  }

  function prepareTable() {
    const heads = [...table.tHead.rows[0].cells];
    heads.slice(1).forEach((head, i) => {
      const button = make("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        if (!now) return sortWorst(i + 1);
        sortBy(i + 1, now !== "ascending");
        $("order").textContent = `sorted by ${head.textContent}`;
      });
    });
    const ranked = heads.findIndex((head) => Number(head.dataset.direction));
    $("worst").hidden = ranked < 0;
    $("worst").addEventListener("click", () => {
      const by = heads.findIndex((head) => head.hasAttribute("aria-sort") && Number(head.dataset.direction));
      sortWorst(by < 0 ? ranked : by);
    });
    $("original").addEventListener("click", () => {
      body.append(...original);
      heads.forEach((head) => head.removeAttribute("aria-sort"));
      $("order").textContent = "";
    });
  }
  prepareTable();
})();
