"use strict";
// The table of trials: sorted by any column, a mark shared with the charts.
{
  const { data, element, state } = gallery;
  const head = document.querySelector("#trials thead tr");
  const body = document.querySelector("#trials tbody");
  const first = data.columns.findIndex((column) => column.name === data.metric && column.kind === "metric");
  let sorted = { by: first, down: data.mode === "max" };

  const columns = () => data.columns.map((column, i) => ({ ...column, i })).filter(({ i }) => state.axes.has(i) || i === first);
  const value = (trial, by) => (by === "trial" ? trial.name : by === "status" ? trial.status : trial.values[by]);
  const compare = (a, b) => {
    const [u, v] = [value(a, sorted.by), value(b, sorted.by)];
    if (a.complete !== b.complete && typeof sorted.by === "number") return a.complete ? -1 : 1; // incomplete trials are last, whichever way
    if (u === null || v === null) return (u === null) - (v === null);
    const order = typeof u === "number" ? u - v : String(u).localeCompare(String(v), "en", { numeric: true });
    return sorted.down ? -order : order;
  };

  const title = (text, by, number, whole = text) => {
    const own = sorted.by === by;
    const button = element("button", { type: "button", class: "sort", title: whole, onclick: () => { sorted = { by, down: own ? !sorted.down : number }; show(); } },
      text, element("span", { "aria-hidden": "true" }, own ? (sorted.down ? " ↓" : " ↑") : ""));
    return element("th", { scope: "col", class: number ? "number" : null, "aria-sort": own ? (sorted.down ? "descending" : "ascending") : "none" }, button);
  };

  const cell = (trial, column) => {
    const mean = gallery.value(trial, column.i);
    const std = trial.std[column.i];
    const spread = column.kind === "metric" && data.numSeeds > 1 && std !== null && mean !== null ? ` ± ${Math.abs(mean) < 1000 ? std.toFixed(3) : gallery.figure(std)}` : "";
    const text = column.kind === "field" ? gallery.plain(mean) : gallery.figure(mean);
    return element("td", { class: column.numeric ? "number" : null }, text, element("span", { class: "spread" }, spread));
  };

  const row = (trial) => {
    const at = data.trials.indexOf(trial);
    const name = element("button", { type: "button", class: "sort", title: trial.name, "aria-pressed": String(at === state.marked), onclick: () => gallery.mark(at) },
      gallery.shortName(trial.name));
    const best = trial.name === data.best ? element("span", { class: "best" }, "best") : "";
    const status = trial.complete ? element("td", {}, trial.status)
      : element("td", {}, element("span", { class: "flag" }, trial.status), trial.reason ? element("span", { class: "reason" }, trial.reason) : "");
    return element("tr", { class: at === state.marked ? "marked" : null, "data-trial": trial.name },
      element("th", { scope: "row" }, name, best), ...columns().map((column) => cell(trial, column)), status);
  };

  const show = () => {
    const kept = data.trials.filter((trial, at) => gallery.isKept(at));
    head.replaceChildren(title("trial", "trial", false), ...columns().map(({ name, i, numeric }) => title(gallery.shortField(name), i, numeric, name)), title("status", "status", false));
    body.replaceChildren(...kept.sort(compare).map(row));
    document.getElementById("count").textContent = kept.length === data.trials.length ? `${kept.length} trials` : `${kept.length} of ${data.trials.length} trials`;
    document.getElementById("clear").hidden = state.kept === null && state.marked === null;
  };
  document.getElementById("clear").addEventListener("click", () => gallery.change({ kept: null, marked: null }, "all"));
  gallery.listen(show);
  show();
}
