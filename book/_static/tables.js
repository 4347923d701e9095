// Tables of results: sorted by a click on a header, and long ones folded. Without this script all rows are shown.
(() => {
  const number = (cell) => {
    const text = cell.textContent.trim().replace("−", "-").replace(/,(?=\d{3})/g, "");
    const found = text.match(/^[-+±]?\s?\d[\d.]*(e-?\d+)?/i);
    return found ? parseFloat(found[0].replace(/[+±\s]/g, "")) : null;
  };
  const compare = (column) => (one, other) => {
    const [a, b] = [one, other].map((row) => row.cells[column]);
    const [x, y] = [number(a), number(b)];
    if (x !== null && y !== null) return x - y;
    if (x !== null || y !== null) return x === null ? 1 : -1;
    return a.textContent.localeCompare(b.textContent);
  };

  const sortable = (table) => {
    const body = table.tBodies[0];
    if (!body || body.rows.length < 2) return;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "descending";
        [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "ascending" : "descending");
        const rows = [...body.rows].sort(compare(column));
        if (!down) rows.reverse();
        body.append(...rows);
        table.dispatchEvent(new Event("folded"));
      });
    });
  };

  const foldable = (table) => {
    const shown = Number(table.dataset.shown);
    if (!shown) return;
    const [button, rows] = [document.createElement("button"), table.tBodies[0].rows];
    let open = false;
    const fold = () => {
      [...rows].forEach((row, place) => { row.hidden = !open && place >= shown; });
      button.textContent = open ? `Show the first ${shown} rows` : `Show all ${rows.length} rows`;
      button.setAttribute("aria-expanded", String(open));
    };
    button.type = "button";
    button.className = "fold";
    button.addEventListener("click", () => { open = !open; fold(); });
    table.addEventListener("folded", fold);
    table.after(button);
    fold();
  };

  // only what scrolls is a stop of the tab key
  const reachable = () => document.querySelectorAll("table.results").forEach((table) => {
    if (table.scrollWidth > table.clientWidth + 1) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
  });

  document.querySelectorAll("table.results").forEach((table) => { sortable(table); foldable(table); });
  reachable();
  addEventListener("resize", reachable);
})();
