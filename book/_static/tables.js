// Tables of results: sorted by a click on a header, and long ones folded. Without this script all rows are shown.
// Pictures that are wider than a phone: where there is more of them is marked, as a style sheet does it for tables.
// The menu: closed again, it gives the focus back to its button where a key had pressed that.
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
  const reachable = (table) => {
    if (table.scrollWidth > table.clientWidth + 1) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
  };
  const tables = document.querySelectorAll("table.results");
  const sized = new ResizeObserver(() => requestAnimationFrame(() => tables.forEach(reachable)));

  // how much of a picture is out of sight at either side, up to the width of the shadow there
  const mark = (figure) => {
    const [rest, gone] = [figure.scrollWidth - figure.clientWidth, figure.scrollLeft];
    const [box, picture] = [figure, figure.querySelector("img")].map((part) => part.getBoundingClientRect());
    const set = (name, size) => figure.style.setProperty(`--${name}`, `${size}px`);
    const shadow = (hidden) => Math.min(Math.max(hidden, 0), 14);
    set("picture", picture.bottom - box.top);
    set("before", shadow(gone));
    set("behind", shadow(rest - gone));
    figure.classList.toggle("wider", rest > 1);
    if (rest > 1) figure.tabIndex = 0;
    else figure.removeAttribute("tabindex");
  };
  const watch = new ResizeObserver((seen) => seen.forEach((entry) => mark(entry.target)));
  document.querySelectorAll(".bd-article figure:not(.explorer):has(img)").forEach((figure) => {
    figure.addEventListener("scroll", () => mark(figure), { passive: true });
    watch.observe(figure);
  });

  // one theme takes the focus off the button before the other notes where to return it
  const toggle = document.querySelector(".primary-toggle");
  toggle?.addEventListener("click", (event) => { if (event.detail === 0) toggle.focus(); });

  tables.forEach((table) => {
    sortable(table);
    foldable(table);
    sized.observe(table);
  });
})();
