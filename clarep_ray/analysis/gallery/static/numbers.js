"use strict";
// The histogram of k, and the curves of a calibration.
{
  const { data, element, axis } = gallery;
  const unique = (values) => [...new Set(values)];

  const histogram = document.getElementById("k-histogram");
  if (histogram && data.kCounts.length) {
    const most = data.kCounts.reduce((a, b) => (b[1] > a[1] ? b : a));
    gallery.chart(histogram, `Histogram of k; most common is k = ${most[0]} with ${most[1]} samples`, (c) => ({
      xAxis: axis(c, "k, number of removed directions", { type: "category", data: data.kCounts.map(([k]) => k), splitLine: { show: false } }),
      yAxis: axis(c, "", { type: "value", minInterval: 1 }),
      series: [{ type: "bar", color: c.accent, barCategoryGap: "12%", barMaxWidth: 56, data: data.kCounts.map(([, count]) => count),
        itemStyle: { borderRadius: [3, 3, 0, 0] } }],
    }));
  }

  const place = document.getElementById("curves");
  const curve = (title, label, make, tall = false) => {
    const container = element("div", { class: tall ? "chart tall" : "chart" });
    place.append(element("figure", {}, element("figcaption", {}, title), container));
    gallery.chart(container, label, make);
  };

  const saturation = (rows) =>
    curve("t_e: accuracy of two-stage samples", `Accuracy against t_e, from ${gallery.figure(rows[0].accuracy)} to ${gallery.figure(rows.at(-1).accuracy)}`, (c) => ({
      tooltip: { renderMode: "richText", trigger: "axis", backgroundColor: c.panel, borderColor: c.line, textStyle: { color: c.ink } },
      xAxis: axis(c, "t_e: the class is unknown above, known below", { type: "value", scale: true, splitLine: { show: false } }),
      yAxis: axis(c, "", { type: "value", min: 0, max: 1 }),
      legend: { bottom: 0, textStyle: { color: c.muted, fontSize: 11 } },
      grid: { left: 44, right: 18, top: 14, bottom: 72 },
      series: [
        { name: "read by the classifiers", type: "line", color: c.accent, symbolSize: 6, data: rows.map((row) => [row.project_t, row.accuracy]),
          markLine: { silent: true, symbol: "none", lineStyle: { color: c.muted }, label: { formatter: `t_e = ${data.project_t}`, color: c.muted, position: "insideEndBottom" },
            data: [{ xAxis: data.project_t }] } },
        { name: "monotone fit", type: "line", color: c.warm, symbol: "none", lineStyle: { type: "dashed" }, data: rows.map((row) => [row.project_t, row.isotonic]) },
      ],
    }));

  // One line per layer and t_e that was swept; where only one variant was tried, there is no curve to draw.
  const projection = (rows, reading) => {
    for (const [letter, name] of [["M", "window M (adaptive k)"], ["k", "the same k for every sample"]]) {
      const swept = rows.filter((row) => row.variant.startsWith(`${letter}=`));
      const cell = (row) => `${row.layer}, t_e = ${row.project_t}`;
      const cells = unique(swept.map(cell)).filter((one) => swept.filter((row) => cell(row) === one).length > 1);
      if (!cells.length) continue;
      const numbers = unique(swept.map((row) => Number(row.variant.slice(2)))).sort((a, b) => a - b);
      const drawn = cells.map((one) => {
        const mine = rows.filter((row) => cell(row) === one);
        const at = (number) => mine.find((row) => row.variant === `${letter}=${number}`);
        return { name: one, values: numbers.map((number) => at(number)?.[`nmi_${reading}_mean`] ?? null),
          before: mine.find((row) => row.variant === "original"), chance: mine[0][`nmi_${reading}_chance`] };
      });
      const flat = (title, value, colour) => ({ name: title, type: "line", symbol: "none", color: colour, lineStyle: { type: "dotted" }, data: numbers.map(() => value) });
      curve(`NMI of Canonical Features against ${name}`, `NMI against ${name} for ${cells.join("; ")}`, (c) => ({
        tooltip: { renderMode: "richText", trigger: "axis", backgroundColor: c.panel, borderColor: c.line, textStyle: { color: c.ink }, valueFormatter: gallery.figure },
        xAxis: axis(c, name, { type: "category", data: numbers, splitLine: { show: false } }),
        yAxis: axis(c, "", { type: "value", min: 0 }),
        grid: { left: 52, right: 18, top: 14, bottom: 72 },
        legend: { bottom: 0, textStyle: { color: c.muted, fontSize: 11 } },
        series: drawn.flatMap(({ name: title, values, before, chance }, i) => [
          { name: title, type: "line", symbolSize: 6, color: [c.accent, c.warm, c.blue][i % 3], connectNulls: true, data: values },
          ...(i ? [] : [flat("originals", before?.[`nmi_${reading}_mean`] ?? null, c.blue), flat("chance", chance, c.muted)]),
        ]),
      }));
    }
  };

  const map = (rows, pictures, reading) => {
    const shown = rows.filter((row) => row.pictures === pictures && row.reading === reading);
    if (!shown.length) return;
    const times = unique(shown.map((row) => row.feature_t)).sort((a, b) => a - b);
    const layers = unique(shown.map((row) => row.layer));
    const values = shown.map((row) => row.nmi_mean);
    const best = shown.reduce((a, b) => (b.nmi_mean > a.nmi_mean ? b : a));
    const how = { label: "read with the label, which can explain it by itself", null: "read without the label" }[reading];
    const title = `NMI of ${pictures === "original" ? "originals" : "Canonical Samples"}, ${how}; chance ${gallery.figure(best.nmi_chance)}`;
    curve(title, `${title}; best ${gallery.figure(best.nmi_mean)} at ${best.layer}, t_f = ${best.feature_t}`, (c) => ({
      tooltip: { renderMode: "richText", backgroundColor: c.panel, borderColor: c.line, textStyle: { color: c.ink },
        formatter: ({ value }) => `${layers[value[1]]}, t_f = ${times[value[0]]}: ${gallery.figure(value[2])}` },
      grid: { left: 8, right: 12, top: 8, bottom: 66, containLabel: true },
      xAxis: axis(c, "feature timestep t_f", { type: "category", data: times }),
      yAxis: axis(c, "", { type: "category", data: layers }),
      visualMap: { min: Math.min(...values), max: Math.max(...values), orient: "horizontal", left: "center", bottom: 0, itemHeight: 90, itemWidth: 10,
        text: [gallery.figure(Math.max(...values)), gallery.figure(Math.min(...values))], textStyle: { color: c.muted, fontSize: 11 }, inRange: { color: [c.panel, c.accent] } },
      series: [{ type: "heatmap", data: shown.map((row) => [times.indexOf(row.feature_t), layers.indexOf(row.layer), row.nmi_mean]),
        itemStyle: { borderColor: c.page, borderWidth: 2 } }],
    }), layers.length > 6);
  };

  if (place) {
    const { saturation: rises, projection: sweep, feature_map: cells } = data.curves;
    const blind = sweep && "nmi_null_mean" in sweep[0] ? "null" : "label";
    if (rises) saturation(rises);
    if (sweep) projection(sweep, blind);
    for (const pictures of ["original", "canonical"]) if (cells) map(cells, pictures, cells.some((row) => row.reading === "null") ? "null" : "label");
    if (!place.children.length) place.append(element("p", { class: "note" }, "The calibration holds no curve."));
  }
}
