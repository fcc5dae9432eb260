// Fills the viewer of samples: choose, order, and show a few at a time. Texts are set as text, never as HTML.
(() => {
  const box = document.getElementById("viewer");
  const read = (name) => JSON.parse(box.querySelector("script." + name).textContent);
  const { rows, systems } = read("samples"), titles = read("titles");
  const form = box.querySelector("form"), list = box.querySelector(".rows");
  const status = box.querySelector("[role=status]"), more = box.querySelector("button");
  const AT_ONCE = 20;
  let found = [], shown = 0;

  const make = (tag, text, parent, kind) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    parent.append(made);
    return made;
  };
  const figure = (row, system) => row.figures[system]?.[form.elements.figure.value] ?? null;
  const gap = (row) => {
    const [first, second] = [form.elements.first.value, form.elements.second.value].map((name) => figure(row, name));
    return first === null || second === null ? null : first - second;
  };

  const card = (row) => {
    const made = make("div", "", list, "card");
    make("p", `${row.dataset}, ${row.place}`, made, "note");
    const line = (name, text, note) => {
      const said = make("p", "", made, "say");
      make("b", name, said);
      said.append(text);
      if (note) make("span", ` (${note})`, said, "soft");
    };
    row.history.forEach(([speaker, text]) => line(speaker, text));
    line(row.speaker || "sentence", row.sentence);
    line("true reply", row.reference, row.emotion);
    const body = make("tbody", "", make("table", "", make("div", "", made, "scroll")));
    for (const system of systems.filter((name) => name in row.replies)) {
      const cells = make("tr", "", body);
      make("td", titles[system] ?? system, cells);
      make("td", row.replies[system] || "(nothing)", cells, "words");
      const value = figure(row, system);
      make("td", value === null ? "\u2013" : value.toFixed(3), cells, "n");
    }
  };

  const show = () => {
    found.slice(shown, shown + AT_ONCE).forEach(card);
    shown = Math.min(shown + AT_ONCE, found.length);
    status.textContent = `${shown} of ${found.length} shown`;
    more.hidden = shown === found.length;
  };

  const choose = () => {
    const { corpus, emotion, order } = form.elements;
    found = rows.filter((row) => (!corpus.value || row.dataset === corpus.value)
      && (!emotion.value || (row.emotion ?? "none") === emotion.value));
    if (order.value) {
      const sign = order.value === "gain" ? -1 : 1;
      found = found.filter((row) => gap(row) !== null).sort((a, b) => sign * (gap(a) - gap(b)));
    }
    list.replaceChildren();
    shown = 0;
    show();
  };

  form.addEventListener("change", choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", show);
  choose();
})();
