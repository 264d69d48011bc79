"use strict";
// Shared by every page: the data, numbers as text, elements, and charts that follow the reader's colour scheme.
const gallery = {
  data: JSON.parse(document.getElementById("data").textContent),
  charts: new Map(),
  dark: matchMedia("(prefers-color-scheme: dark)"),
  still: matchMedia("(prefers-reduced-motion: reduce)"),
};

// The same digits as the tables of the page: three decimals, or three digits where that says more.
gallery.figure = (value) => {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 0.01 && size < 1000 ? value.toFixed(3) : String(Number(value.toPrecision(3)));
};

// A setting or a tick of an axis: the number as one would write it.
gallery.plain = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value));

// An element with attributes, properties and children. Text goes in as text: nothing of the data becomes markup.
gallery.element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};

gallery.colours = () => {
  const style = getComputedStyle(document.documentElement);
  const named = ["ink", "muted", "line", "panel", "accent", "warm", "blue", "page"];
  return Object.fromEntries(named.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
};

// What every chart of ours shares; `make(colours)` adds the rest. `label` is what a screen reader says.
gallery.chart = (container, label, make) => {
  container.setAttribute("role", "img");
  container.setAttribute("aria-label", label);
  let held = gallery.charts.get(container);
  if (!held) {
    held = { chart: echarts.init(container, null, { renderer: "svg" }) };
    new ResizeObserver(() => held.chart.resize()).observe(container);
    gallery.charts.set(container, held);
  }
  held.make = make;
  gallery.draw(held);
  return held.chart;
};

gallery.draw = (held) => {
  const c = gallery.colours();
  const base = {
    animation: !gallery.still.matches,
    animationDuration: 250,
    animationDurationUpdate: 200,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: c.ink },
    grid: { left: 52, right: 18, top: 18, bottom: 44 },
    // Tooltips are drawn as text, never as HTML: names come from data.
    tooltip: {
      renderMode: "richText", backgroundColor: c.panel, borderColor: c.line, textStyle: { color: c.ink, fontSize: 12 },
    },
    legend: { bottom: 0, itemWidth: 14, itemHeight: 8, textStyle: { color: c.muted, fontSize: 11 } },
  };
  held.chart.setOption({ ...base, ...held.make(c) }, { notMerge: true });
};

gallery.axis = (c, name, more = {}) => ({
  name,
  nameLocation: "middle",
  nameGap: 28,
  nameTextStyle: { color: c.muted, fontSize: 11 },
  axisLabel: { color: c.muted, fontSize: 11 },
  axisLine: { lineStyle: { color: c.line } },
  axisTick: { lineStyle: { color: c.line } },
  splitLine: { lineStyle: { color: c.line, opacity: 0.6 } },
  ...more,
});

gallery.dark.addEventListener("change", () => gallery.charts.forEach(gallery.draw));
