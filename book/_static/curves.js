// Curves: what a point says is read out by mouse and keyboard, and each defence can be hidden.
document.querySelectorAll("figure.curves:not([data-ready])").forEach((figure) => {
  figure.dataset.ready = "";
  const readout = figure.querySelector(".readout");
  const show = (point) => {
    figure.querySelectorAll(".chosen").forEach((other) => other.classList.remove("chosen"));
    if (!point) return;
    point.classList.add("chosen");
    readout.textContent = point.dataset.told;
  };
  const groups = (panel) => [...panel.querySelectorAll("g[data-defence]")].filter((group) => group.style.display !== "none");
  const points = (group) => [...group.querySelectorAll(".point")];

  figure.querySelectorAll(".panels svg").forEach((panel) => {
    // moving over a panel says what the nearest point is
    panel.addEventListener("pointermove", (event) => {
      const far = (point) => {
        const box = point.getBoundingClientRect();
        return Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      };
      show(groups(panel).flatMap(points).reduce((best, one) => (!best || far(one) < far(best) ? one : best), null));
    });
    let [row, column] = [0, 0];
    const say = () => {
      const shown = groups(panel);
      if (!shown.length) return;
      row = Math.min(Math.max(row, 0), shown.length - 1);
      const all = points(shown[row]);
      column = Math.min(Math.max(column, 0), all.length - 1);
      show(all[column]);
    };
    panel.addEventListener("focus", say);
    panel.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
      if (down === undefined) return;
      event.preventDefault();
      [row, column] = [row + down, column + right];
      say();
    });
  });

  figure.querySelectorAll(".legend span").forEach((entry) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    const label = document.createElement("label");
    label.append(box, ...entry.childNodes);
    entry.append(label);
    box.addEventListener("change", () => {
      figure.querySelectorAll(`.panels g[data-defence="${entry.dataset.defence}"]`).forEach((group) => {
        group.style.display = box.checked ? "" : "none";
      });
      show(null);
    });
  });
});
