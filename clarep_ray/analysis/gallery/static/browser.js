"use strict";
// The class browser, the filters, and the pages of cards.
{
  const { data, element } = gallery;
  const PAGE = 24;
  const MOST_TILES = 40;
  const cards = document.getElementById("cards");
  const form = document.getElementById("filters");
  const tiles = document.getElementById("classes");
  let page = 0;

  const counted = (pairs) => pairs.map(([value, text]) => element("option", { value }, text));
  const perClass = data.classes.map(() => []);
  data.samples.forEach((sample) => perClass[sample.class].push(sample));

  form.elements.class.append(
    ...counted([["", `all ${data.classes.length} classes`], ...data.classes.map((name, i) => [i, `${name} (${perClass[i].length})`])]),
  );
  if (form.elements.flag) {
    const number = (flag) => data.samples.filter((sample) => sample.flags.includes(flag)).length;
    const clean = data.samples.filter((sample) => !sample.flags.length).length;
    const flags = Object.entries(data.flags).map(([name, flag]) => [name, `${flag.title} (${number(name)})`]);
    form.elements.flag.append(...counted([["", "any"], ["none", `none raised (${clean})`], ...flags]));
    const all = data.samples.map((sample) => sample.k);
    const limits = { min: Math.min(...all), max: Math.max(...all) };
    for (const [name, shown] of [["least", limits.min], ["most", limits.max]]) {
      Object.entries({ ...limits, placeholder: shown }).forEach(([key, value]) => form.elements[name].setAttribute(key, value));
    }
  }
  form.elements.order.append(...counted(Object.entries(gallery.orders).map(([name, order]) => [name, order.title])));

  if (data.classes.length > 1 && data.classes.length <= MOST_TILES) {
    data.classes.forEach((name, i) => {
      const first = perClass[i][0];
      if (!first) return;
      const picture = gallery.image({ ...gallery.picture(first, data.own), alt: "" });
      tiles.append(
        element(
          "button",
          { type: "button", class: "tile", "data-class": i, "aria-pressed": "false", title: name,
            onclick: () => gallery.filter({ class: gallery.filters.class === String(i) ? "" : String(i) }) },
          picture, element("span", { class: "tile-name" }, name), element("span", { class: "tile-count" }, String(perClass[i].length)),
        ),
      );
    });
  }

  form.addEventListener("input", () => gallery.filter(Object.fromEntries(new FormData(form))));
  form.addEventListener("submit", (event) => event.preventDefault());
  const reset = () => gallery.filter(gallery.clear());
  form.addEventListener("reset", (event) => { event.preventDefault(); reset(); });
  document.getElementById("empty-reset").addEventListener("click", reset);

  const card = (sample, position) => {
    const strip = element("span", { class: "strip" });
    data.columns.forEach((column, i) => {
      const picture = gallery.picture(sample, i);
      strip.append(element("span", { class: "shot" }, gallery.image(picture), element("span", { class: "caption" }, picture.short)));
    });
    const line = element("span", { class: "card-line" }, element("strong", {}, data.classes[sample.class]));
    if (sample.k !== undefined) line.append(element("span", { class: "k" }, `${gallery.step ? "own " : ""}k ${sample.k}`));
    sample.flags.forEach((flag) => line.append(element("span", { class: "flag", title: data.flags[flag].meaning }, data.flags[flag].title)));
    line.append(element("span", { class: "card-id" }, sample.id));
    const button = element(
      "button", { type: "button", class: "card", "data-position": position, onclick: () => gallery.open(position) }, strip, line,
    );
    return element("li", {}, button);
  };

  const pages = () => Math.max(1, Math.ceil(gallery.found.length / PAGE));
  const show = () => {
    page = Math.min(page, pages() - 1);
    const start = page * PAGE;
    const shown = gallery.found.slice(start, start + PAGE);
    cards.replaceChildren(...shown.map((sample, i) => card(sample, start + i)));
    const total = data.samples.length.toLocaleString("en");
    const count = gallery.found.length.toLocaleString("en");
    document.getElementById("count").textContent = count === total ? `${total} samples` : `${count} of ${total} samples`;
    document.getElementById("page-number").textContent = `page ${page + 1} of ${pages()}`;
    document.getElementById("previous-page").disabled = page === 0;
    document.getElementById("next-page").disabled = page === pages() - 1;
    document.querySelector(".pager").hidden = pages() === 1;
    document.getElementById("empty").hidden = gallery.found.length > 0;
    for (const tile of tiles.children) tile.setAttribute("aria-pressed", String(tile.dataset.class === gallery.filters.class));
    for (const [name, value] of Object.entries(gallery.filters)) {
      const field = form.elements[name];
      if (field && field.value !== value) field.value = value;
    }
  };

  const turn = (by) => {
    page = Math.max(0, Math.min(pages() - 1, page + by));
    show();
    document.getElementById("samples").scrollIntoView({ block: "start" });
  };
  document.getElementById("previous-page").addEventListener("click", () => turn(-1));
  document.getElementById("next-page").addEventListener("click", () => turn(1));

  // Focus the card of a position in what was found, turning to its page.
  gallery.focusCard = (position) => {
    if (Math.floor(position / PAGE) !== page) { page = Math.floor(position / PAGE); show(); }
    const found = cards.querySelector(`[data-position="${position}"]`);
    if (found) found.focus();
  };

  const perRow = () => getComputedStyle(cards).gridTemplateColumns.split(" ").length;
  cards.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow(), ArrowUp: -perRow() };
    const at = event.target.closest(".card");
    if (!at || !(event.key in moves)) return;
    event.preventDefault();
    const next = Number(at.dataset.position) + moves[event.key];
    if (next >= 0 && next < gallery.found.length) gallery.focusCard(next);
  });

  gallery.listen((what) => { if (what === "filter") page = 0; show(); });
  show();
}
