"use strict";
// The front of two chosen columns, and parallel coordinates.
{
  const { data, element, axis, state } = gallery;
  const form = document.getElementById("front-form");
  const numeric = data.columns.map((column, i) => ({ ...column, i })).filter((column) => column.numeric);
  const field = (name) => form.elements[name];
  const chosen = () => ({ x: Number(field("x").value), y: Number(field("y").value), xGoal: field("xgoal").value, yGoal: field("ygoal").value });

  for (const name of ["x", "y"]) field(name).append(...numeric.map((column) => element("option", { value: column.i }, column.name)));
  const metrics = numeric.filter((column) => column.kind === "metric");
  const other = metrics.find((column) => state.axes.has(column.i) && column.name !== data.metric) || metrics[1] || numeric[0];
  const goal = (name) => { field(`${name}goal`).value = data.columns[Number(field(name).value)].goal; };
  field("x").value = metrics[0].i;
  field("y").value = other.i;
  ["x", "y"].forEach(goal);

  const tooltip = (c) => ({ renderMode: "richText", backgroundColor: c.panel, borderColor: c.line, textStyle: { color: c.ink, fontSize: 12 } });
  const tell = (at, columns) =>
    [gallery.shortName(data.trials[at].name), gallery.describe(data.trials[at]),
      ...columns.map((i) => `${data.columns[i].name} ${gallery.figure(data.trials[at].values[i])}`)].join("\n");

  // Bars of one standard deviation in both directions, behind the points.
  const bars = (c, x, y, able) => ({
    type: "custom", silent: true, z: 1, data: able.map((at) => [data.trials[at].values[x], data.trials[at].values[y], at]),
    renderItem: (params, api) => {
      const at = api.value(2);
      const std = (i) => data.trials[at].std[i] || 0;
      const line = (from, to) => {
        const [a, b] = [api.coord(from), api.coord(to)];
        return { type: "line", shape: { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }, style: { stroke: c.muted, lineWidth: 1, opacity: gallery.isKept(at) ? 0.55 : 0.12 } };
      };
      const [u, v] = [api.value(0), api.value(1)];
      return { type: "group", children: [line([u - std(x), v], [u + std(x), v]), line([u, v - std(y)], [u, v + std(y)])] };
    },
  });

  const drawFront = () => {
    const { x, y, xGoal, yGoal } = chosen();
    const able = gallery.comparable([x, y]);
    const front = gallery.front(x, y, xGoal, yGoal);
    const point = (at) => [data.trials[at].values[x], data.trials[at].values[y], at];
    const text = `${front.length} of ${able.length} trials are on the front of ${data.columns[x].name} and ${data.columns[y].name}.`;
    document.getElementById("front-text").textContent = text;
    const reach = (i) => (range) => { // room for the bars
      const all = able.flatMap((at) => [data.trials[at].values[i] - (data.trials[at].std[i] || 0), data.trials[at].values[i] + (data.trials[at].std[i] || 0)]);
      const [low, high] = [Math.min(...all), Math.max(...all)];
      const room = (high - low || Math.abs(high) || 1) * 0.06;
      return range === "low" ? low - room : high + room;
    };
    const tidy = (value) => Number(value.toPrecision(3));
    const limits = (i) => ({ min: tidy(reach(i)("low")), max: tidy(reach(i)("high")) });
    const chart = gallery.chart(document.getElementById("front"), text, (c) => {
      const shown = (list, style) => list.map((at) => ({
        value: point(at), symbolSize: at === state.marked ? 18 : style.size,
        itemStyle: { color: style.color, borderColor: at === state.marked ? c.ink : style.border, borderWidth: 2, opacity: gallery.isKept(at) ? 1 : 0.15 },
      }));
      const muted = { color: c.muted, fontSize: 11, hideOverlap: true, showMinLabel: false, showMaxLabel: false, formatter: gallery.plain };
      return {
        tooltip: { ...tooltip(c), trigger: "item", formatter: ({ value }) => tell(value[2], [x, y]) },
        grid: { left: 66, right: 24, top: 18, bottom: 48 },
        xAxis: axis(c, data.columns[x].name, { type: "value", scale: true, ...limits(x), axisLabel: muted }),
        yAxis: axis(c, data.columns[y].name, { type: "value", scale: true, nameGap: 48, ...limits(y), axisLabel: muted }),
        series: [
          bars(c, x, y, able),
          { type: "line", z: 2, silent: true, symbol: "none", lineStyle: { color: c.accent, width: 1.5, type: "dashed" }, data: front.map(point) },
          { type: "scatter", z: 3, data: shown(able.filter((at) => !front.includes(at)), { size: 10, color: c.page, border: c.muted }) },
          { type: "scatter", z: 4, data: shown(front, { size: 12, color: c.accent, border: c.accent }) },
        ],
      };
    });
    chart.off("click");
    chart.on("click", ({ value }) => gallery.mark(value[2]));
  };
  gallery.mark = (at) => gallery.change({ marked: state.marked === at ? null : at }, "marked");
  form.addEventListener("change", (event) => {
    if (["x", "y"].includes(event.target.name)) goal(event.target.name);
    drawFront();
  });

  const place = document.getElementById("parallel");
  const spanning = (i) => {
    const values = able().map((at) => data.trials[at].values[i]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low > 0 && high / low >= 1000 ? "log" : "value";
  };
  const drawn = () => [...state.axes].sort((a, b) => a - b).sort((a, b) => (data.columns[a].name === data.metric) - (data.columns[b].name === data.metric));
  const able = () => gallery.comparable([...state.axes].filter((i) => data.columns[i].numeric));

  const categories = (rows, i) =>
    [...new Set(rows.map((at) => gallery.value(data.trials[at], i)))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));

  const drawParallel = () => {
    const columns = drawn();
    const rows = able();
    const last = columns.at(-1);
    const coloured = rows.map((at) => data.trials[at].values[last]).filter((value) => typeof value === "number");
    const narrow = place.clientWidth < 90 * columns.length;
    place.style.height = narrow ? `${72 * columns.length + 60}px` : "";
    const label = `${rows.length} trials over ${columns.map((i) => data.columns[i].name).join(", ")}`;
    const chart = gallery.chart(place, label, (c) => ({
      tooltip: { ...tooltip(c), formatter: ({ dataIndex }) => tell(rows[dataIndex], columns.filter((i) => data.columns[i].kind === "metric")) },
      parallel: narrow
        ? { layout: "vertical", left: 20, right: 30, top: 34, bottom: 34 }
        : { left: 60, right: 60, top: 52, bottom: 24 },
      parallelAxis: columns.map((i, dim) => ({
        dim, z: 5,
        type: data.columns[i].numeric ? spanning(i) : "category", scale: true,
        ...(data.columns[i].numeric ? {} : { data: categories(rows, i) }),
        ...axis(c, gallery.shortField(data.columns[i].name), {}), nameLocation: narrow ? "start" : "end", nameGap: narrow ? 8 : 16,
        axisLabel: { color: c.ink, fontSize: 11, backgroundColor: c.page, padding: [1, 3], borderRadius: 3, formatter: gallery.plain },
        nameTextStyle: { color: c.ink, fontSize: 12, ...(narrow ? { align: "left", verticalAlign: "bottom", padding: [0, 0, 10, 0] } : {}) },
        areaSelectStyle: { width: 22, borderColor: c.accent, color: c.accent, opacity: 0.18 },
      })),
      ...(coloured.length
        ? { visualMap: { show: false, dimension: columns.length - 1, min: Math.min(...coloured), max: Math.max(...coloured), inRange: { color: [c.blue, c.muted, c.warm] } } }
        : {}),
      series: [{
        type: "parallel", animation: false, inactiveOpacity: 0.06, activeOpacity: 1, progressive: 0,
        lineStyle: { width: 2, opacity: 0.75 },
        data: rows.map((at) => ({ value: columns.map((i) => gallery.value(data.trials[at], i)),
          ...(at === state.marked ? { lineStyle: { width: 6, opacity: 1 } } : {}) })),
      }],
    }));
    chart.off("axisareaselected");
    chart.on("axisareaselected", () => {
      const active = chart.getModel().getSeriesByIndex(0).getRawIndicesByActiveState("active");
      const ranged = active.length < rows.length && chart.getOption().parallelAxis.length;
      gallery.change({ kept: ranged ? new Set(active.map((i) => rows[i])) : null }, "kept");
    });
  };

  document.getElementById("axes").append(...data.columns.map((column, i) => element("label", { class: "switch" },
    element("input", { type: "checkbox", checked: state.axes.has(i), onchange: (event) => {
      const axes = new Set(state.axes);
      if (event.target.checked) axes.add(i); else if (axes.size > 2) axes.delete(i); else event.target.checked = true;
      gallery.change({ axes, kept: null }, "axes");
    } }), ` ${column.name}`)));

  gallery.listen((what) => {
    drawFront();
    if (what !== "kept") drawParallel();
  });
  drawFront();
  drawParallel();
}
