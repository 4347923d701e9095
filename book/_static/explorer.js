// An image, a defence, an attacker and a budget: draws what the files of data beside it hold. Without it a picture stays.
(() => {
  const KNOWS = {
    oblivious: "who does not know of the defence",
    direct: "who follows the gradient of the defence",
    adaptive: "who knows the defence",
  };

  const element = (name, attributes = {}, ...inside) => {
    const made = document.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.append(...inside);
    return made;
  };

  // the tiles of one image, each as grey levels or colours: the image, its attacked forms, what defences made of them
  const tilesOf = async (data, row) => {
    const [channels, height, width] = data.size;
    const image = new Image();
    image.src = `data:image/png;base64,${data.images[row]}`;
    await image.decode();
    const canvas = element("canvas", { width, height: image.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return Array.from({ length: image.height / height }, (_, tile) =>
      context.getImageData(0, tile * height, width, height));
  };

  const difference = (clean, attacked, gain) => {
    const made = new ImageData(clean.width, clean.height);
    clean.data.forEach((level, place) => {
      made.data[place] = place % 4 === 3 ? 255 : 128 + gain * (attacked.data[place] - level);
    });
    return made;
  };

  const start = async (figure) => {
    const data = globalThis.advdefExplorer?.[figure.dataset.explorer];
    if (!data || "started" in figure.dataset) return;
    figure.dataset.started = "";
    const { defences, attackers, budgets, classes, labels } = data;
    const small = figure.dataset.explorer !== "all";
    const each = attackers.length * budgets.length;
    const cell = (defence, attacker, step) => (step ? 1 + defence * each + attacker * budgets.length + step - 1 : 0);
    const chosen = {
      row: Number(figure.dataset.row),
      defence: Number(figure.dataset.defence),
      attacker: attackers.length - 1,
      step: small ? 0 : budgets.length,
    };
    const cache = new Map();
    const tiles = (row) => {
      if (!cache.has(row)) cache.set(row, tilesOf(data, row));
      return cache.get(row);
    };
    const named = (answer) => {
      if (!answer) return "not kept";
      const sure = answer.length > 1 ? ` (${answer[1]}\u00a0%)` : "";
      return (classes[answer[0]] ?? "another class") + sure;
    };

    // what is chosen
    const form = element("form", { class: "explorer-form", autocomplete: "off" });
    form.addEventListener("submit", (event) => event.preventDefault());
    const labelled = (title, control, ...more) => {
      control.id = `explorer-${figure.dataset.explorer}-${form.childElementCount}`;
      form.append(element("div", {}, element("label", { for: control.id }, title), control, ...more));
    };
    const select = (title, key, names) => {
      const made = element("select", {}, ...names.map((name, value) => element("option", { value }, name)));
      made.value = chosen[key];
      made.addEventListener("change", () => { chosen[key] = Number(made.value); draw(); });
      labelled(title, made);
    };
    if (!small) {
      const pictures = element("fieldset", {}, element("legend", {}, "Image"));
      form.append(pictures);
      labels.forEach((label, row) => {
        const radio = element("input", { type: "radio", name: "explorer-image", value: row });
        const canvas = element("canvas", { width: data.size[2], height: data.size[1], "aria-hidden": "true" });
        radio.checked = row === chosen.row;
        radio.addEventListener("change", () => { chosen.row = row; draw(); });
        pictures.append(element("label", {}, radio, canvas, element("span", {}, classes[label])));
        tiles(row).then((all) => canvas.getContext("2d").putImageData(all[0], 0, 0));
      });
      select("Defence", "defence", defences);
      select("Attacker", "attacker", attackers.map((name) => `${name}: ${KNOWS[name]}`));
    }
    const slider = element("input", { type: "range", min: 0, max: budgets.length, step: 1 });
    slider.value = chosen.step;
    const told = element("span", { class: "explorer-eps" });
    slider.addEventListener("input", () => { chosen.step = Number(slider.value); draw(); });
    const question = "How far may an attacker who knows the defence change each pixel?";
    labelled(small ? question : "Budget", slider, told);

    // what is seen
    const views = element("div", { class: "explorer-views" });
    const view = () => {
      const canvas = element("canvas", { width: data.size[2], height: data.size[1], role: "img" });
      const text = element("span");
      views.append(element("div", {}, canvas, text));
      return (title, pixels, answer) => {
        canvas.parentElement.hidden = !pixels;
        if (!pixels) return;
        canvas.getContext("2d").putImageData(pixels, 0, 0);
        canvas.setAttribute("aria-label", answer ? `${title}: ${answer}` : title);
        text.replaceChildren(element("b", {}, title), answer);
      };
    };
    const [clean, change, attacked, restored] = [view(), view(), view(), view()];
    const said = element("p", { class: "explorer-said", role: "status" });
    const body = element("tbody");
    const head = ["defence", "its answer to this image", "its answer when it is attacked itself"];
    const table = element("table", { class: "explorer-answers" },
      element("caption", {}, "Every defence, with the same attacker and budget"),
      element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))), body);
    const answerCell = (answer, label) => {
      if (!answer) return element("td", { class: "unknown" }, "–");
      const right = answer[0] === label;
      const made = element("td", { class: right ? "right" : "wrong" },
        element("span", { class: "sign" }, right ? "✓ " : "✗ "), named(answer));
      if (answer.length > 1) made.append(element("span", { class: "bar", style: `--share: ${answer[1]}%` }));
      return made;
    };

    const draw = async () => {
      const { row, defence, attacker, step } = chosen;
      const all = await tiles(row);
      if (row !== chosen.row) return;
      const [label, place] = [labels[row], cell(defence, attacker, step)];
      const answers = data.answers[row];
      const [before, answer] = [answers[0][defence], answers[place][defence]];
      const name = defences[defence];
      const eps = step ? `eps ${budgets[step - 1]}` : "no attack";
      told.textContent = eps;
      slider.setAttribute("aria-valuetext", eps);
      const [one, other] = [all[0], all[place]];
      const same = one.data.every((level, pixel) => level === other.data[pixel]);
      clean("Image", one, `${name}: ${named(before)}`);
      change(`Change × ${data.gain}`, difference(one, other, data.gain), same ? "none" : "");
      attacked("Attacked image", other, `${name}: ${named(answer)}`);
      const seen = data.seen.indexOf(defence);
      const from = 1 + defences.length * each + seen * (1 + each) + (step && 1 + attacker * budgets.length + step - 1);
      restored(`What ${name} makes of it`, seen < 0 ? null : all[from], "");
      const right = answer && answer[0] === label;
      const who = `An attacker ${KNOWS[attackers[attacker]]}, ${eps}`;
      said.textContent = !step
        ? `No attack: ${name} answers ${named(answer)}, which is ${right ? "right" : `wrong: it is ${classes[label]}`}.`
        : right && same ? `${who}: nothing that was tried broke ${name} on this image. It answers ${named(answer)}.`
          : right ? `${who}: ${name} still answers ${named(answer)}, which is right.`
            : before && before[0] !== label ? `${name} is wrong without any attack, too: ${named(before)} for ${classes[label]}.`
              : `${who}: ${name} answers ${named(answer)} instead of ${classes[label]}.`;
      body.replaceChildren(...defences.map((other_, number) => element("tr", number === defence ? { class: "chosen" } : {},
        element("th", { scope: "row" }, other_), answerCell(answers[place][number], label),
        answerCell(answers[cell(number, attacker, step)][number], label))));
    };

    await draw();
    figure.querySelector(".explorer-still").replaceWith(form, said, views, ...(small ? [] : [table]));
    const about = small ? data.about : `${data.about} Move the slider to the left for smaller attacks.`;
    figure.querySelector("figcaption").replaceWith(element("figcaption", {}, about));
    figure.dataset.ready = "";
  };

  document.querySelectorAll("figure.explorer").forEach(start);
})();
