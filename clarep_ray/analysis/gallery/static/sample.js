"use strict";
// One sample close up: its pictures, its spectrum with k, and what every number means.
{
  const { data, element } = gallery;
  const dialog = document.getElementById("sample");
  const at = (id) => document.getElementById(id);
  let position = -1;

  const spectrum = (sample) => {
    const k = sample.k;
    const shown = gallery.step ? data.steps[gallery.step - 1] : k; // what the picture above was decoded with
    const label = `Explained-variance ratio of ${sample.evr.length} directions, from ${gallery.figure(sample.evr[0])} down to ` +
      `${gallery.figure(sample.evr.at(-1))}; k is ${k}`;

    gallery.chart(at("spectrum"), label, (c) => ({
      tooltip: { renderMode: "richText", trigger: "axis", backgroundColor: c.panel, borderColor: c.line, textStyle: { color: c.ink },
        formatter: ([point]) => `rank ${point.value[0]}: ${gallery.figure(point.value[1])}` },
      xAxis: gallery.axis(c, "rank", { type: "value", min: 1, max: sample.evr.length, minInterval: 1, splitLine: { show: false } }),
      yAxis: gallery.axis(c, "", { type: "value", min: 0 }),
      series: [{
        type: "line", symbol: "circle", symbolSize: 5, color: c.accent, lineStyle: { width: 2 },
        data: sample.evr.map((ratio, i) => [i + 1, ratio]),
        markArea: { silent: true, itemStyle: { color: c.warm, opacity: 0.12 }, data: shown ? [[{ xAxis: 1 }, { xAxis: shown }]] : [],
          label: { show: shown > 2, position: "insideTop", color: c.muted, fontSize: 11, formatter: shown === k ? "removed" : `removed at k = ${shown}` } },
        markPoint: { symbol: "circle", symbolSize: 13, data: [{ coord: [k, sample.evr[k - 1]] }],
          itemStyle: { color: "transparent", borderColor: c.warm, borderWidth: 2.5 },
          label: { show: true, position: [14, -12], color: c.ink, fontWeight: 600, formatter: `k = ${k}` } },
      }],
    }));
  };

  const numbers = (sample) => {
    const rows = Object.entries(data.numbers).filter(([name]) => sample[name] !== undefined && sample[name] !== null);
    const raised = sample.flags.map((flag) => ["⚑", data.flags[flag].title, data.flags[flag].meaning]);
    const shown = rows.map(([name, number]) => [number.title, gallery.figure(sample[name]), number.meaning]);
    if (sample.k !== undefined && !raised.length) shown.push(["flags", "none", "none of the run's checks of elbow and singular vectors was raised"]);
    return [...raised, ...shown].map(([title, value, meaning]) =>
      element("div", { class: title === "⚑" ? "raised" : null },
        element("dt", {}, title), element("dd", {}, value), element("dd", { class: "meaning" }, meaning)));
  };

  const pictures = (sample) =>
    data.columns.map((column, i) => {
      const picture = gallery.picture(sample, i);
      return element("figure", { title: column.meaning }, gallery.image(picture),
        element("figcaption", {}, element("strong", {}, picture.caption), element("span", {}, column.meaning)));
    });

  const film = (sample) =>
    ["own", ...data.steps].map((k, i) => {
      const encoded = i ? sample.steps[i - 1] : sample.pictures[data.own];
      const name = i ? `k = ${k}` : `own, k = ${sample.k}`;
      const picture = { source: encoded && `data:image/webp;base64,${encoded}`, alt: `${name} of ${sample.id}` };
      return element("li", {},
        element("button", { type: "button", "aria-pressed": String(gallery.step === i), onclick: () => gallery.setStep(i) },
          gallery.image(picture), element("span", {}, name)));
    });

  const show = () => {
    const sample = gallery.found[position];
    at("sample-title").textContent = data.classes[sample.class];
    at("sample-id").textContent = sample.prompt ? `${sample.id} · “${sample.prompt}”` : sample.id;
    at("sample-place").textContent = `${position + 1} of ${gallery.found.length}`;
    at("sample-previous").disabled = position === 0;
    at("sample-next").disabled = position === gallery.found.length - 1;
    at("sample-pictures").replaceChildren(...pictures(sample));
    at("sample-numbers").replaceChildren(...numbers(sample));
    if (at("film")) {
      const held = at("film").contains(document.activeElement);
      at("film").replaceChildren(...film(sample));
      if (held) at("film").querySelector('[aria-pressed="true"]').focus();
    }
    if (at("spectrum")) {
      at("spectrum").closest("figure").hidden = !sample.evr;
      if (sample.evr) spectrum(sample);
    }
  };

  gallery.open = (at) => {
    position = at;
    if (!dialog.open) dialog.showModal();
    show();
    history.replaceState(null, "", `#${gallery.found[position].key}`);
  };
  const move = (by) => {
    const next = position + by;
    if (next >= 0 && next < gallery.found.length) gallery.open(next);
  };

  at("sample-previous").addEventListener("click", () => move(-1));
  at("sample-next").addEventListener("click", () => move(1));
  at("sample-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    history.replaceState(null, "", "#samples");
    gallery.focusCard(position);
  });
  dialog.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1 };
    if (!(event.key in moves) || event.target.matches("input")) return; // the slider keeps its own arrows
    event.preventDefault();
    move(moves[event.key]);
  });
  gallery.listen((what) => { if (what === "step" && dialog.open) show(); });

  // A link to one sample: report.html#KEY.
  const linked = gallery.found.findIndex((sample) => sample.key === decodeURIComponent(location.hash.slice(1)));
  if (linked >= 0) gallery.open(linked);
}
