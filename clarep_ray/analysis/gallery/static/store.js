"use strict";
// Which samples are shown, in which order, and at which k; the page redraws itself when that changes.
{
  const { data } = gallery;
  const listeners = [];
  const orders = {
    input: { title: "as in the input", by: null },
    k: { title: "largest k first", by: (sample) => -sample.k, needs: "k" },
    margin: { title: "closest elbow first", by: (sample) => sample.margin, needs: "k" },
    residual: { title: "worst residual first", by: (sample) => -sample.residual, needs: "k" },
    error: { title: "worst round trip first", by: (sample) => -sample.error, needs: "error" },
  };
  const has = (field) => data.samples.some((sample) => sample[field] !== undefined && sample[field] !== null);

  gallery.orders = Object.fromEntries(Object.entries(orders).filter(([, order]) => !order.needs || has(order.needs)));
  gallery.clear = () => ({ class: "", flag: "", least: "", most: "", order: "input", find: "" });
  gallery.filters = gallery.clear();
  gallery.step = 0; // 0: each sample's own k; i: data.steps[i - 1] for every sample

  gallery.matches = (sample, filters) =>
    (filters.class === "" || sample.class === Number(filters.class)) &&
    (filters.flag === "" || (filters.flag === "none" ? !sample.flags.length : sample.flags.includes(filters.flag))) &&
    (filters.least === "" || sample.k >= Number(filters.least)) &&
    (filters.most === "" || sample.k <= Number(filters.most)) &&
    sample.id.toLowerCase().includes(filters.find.trim().toLowerCase());

  gallery.select = () => {
    const found = data.samples.filter((sample) => gallery.matches(sample, gallery.filters));
    const by = gallery.orders[gallery.filters.order].by;
    return by ? found.sort((a, b) => by(a) - by(b)) : found;
  };

  gallery.found = gallery.select();
  gallery.listen = (listener) => listeners.push(listener);
  gallery.filter = (changes) => {
    gallery.filters = { ...gallery.filters, ...changes };
    gallery.found = gallery.select();
    listeners.forEach((listener) => listener("filter"));
  };
  gallery.setStep = (step) => {
    gallery.step = step;
    listeners.forEach((listener) => listener("step"));
  };

  gallery.stepText = (step) => (step ? `k = ${data.steps[step - 1]} for every sample` : "each sample's own k");

  // The picture of a column: its source, or why there is none; the samples' own follow the slider.
  gallery.picture = (sample, column) => {
    const stepped = gallery.step && column === data.own;
    const encoded = stepped ? sample.steps[gallery.step - 1] : sample.pictures[column];
    const k = stepped ? data.steps[gallery.step - 1] : sample.k;
    const name = data.columns[column].name;
    const shown = stepped ? `${name}, k = ${k}` : name;
    const alt = `${shown} of ${sample.id}, class ${data.classes[sample.class]}`;
    return { source: encoded && `data:image/webp;base64,${encoded}`, caption: shown, short: stepped ? `k = ${k}` : name, alt };
  };

  gallery.image = (picture) =>
    picture.source
      ? gallery.element("img", { src: picture.source, alt: picture.alt, loading: "lazy", decoding: "async" })
      : gallery.element("span", { class: "missing", role: "img", "aria-label": `${picture.alt}: rejected` }, "rejected");

  // Every slider over k on the page shows and sets the same step.
  for (const place of document.querySelectorAll("[data-stepper]")) {
    const id = `stepper-${Math.random().toString(36).slice(2)}`;
    const input = gallery.element("input", {
      id, type: "range", min: 0, max: data.steps.length, step: 1, value: 0, list: `${id}-marks`,
      oninput: (event) => gallery.setStep(Number(event.target.value)),
    });
    const marks = gallery.element("div", { class: "marks", "aria-hidden": "true" });
    ["own", ...data.steps].forEach((k) => marks.append(gallery.element("span", {}, String(k))));
    const text = gallery.element("output", { for: id });
    const show = () => {
      input.value = gallery.step;
      input.setAttribute("aria-valuetext", gallery.stepText(gallery.step));
      text.textContent = gallery.stepText(gallery.step);
    };
    place.append(gallery.element("label", { for: id }, "Removed directions"), gallery.element("div", {}, input, marks), text);
    gallery.listen(show);
    show();
  }
}
