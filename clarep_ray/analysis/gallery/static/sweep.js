"use strict";
// Trials, the columns that are shown, which trials are kept and marked, and the Pareto front.
{
  const { data } = gallery;
  const listeners = [];
  const metrics = data.columns.map((column, i) => ({ ...column, i })).filter((column) => column.kind === "metric");
  const varies = (i) => new Set(data.trials.map((trial) => trial.values[i])).size > 1;
  const MOST_METRICS = 4;

  gallery.state = {
    kept: null, // Set of positions that the axes' ranges keep; null: all
    marked: null, // position of one trial
    axes: new Set([
      ...data.columns.flatMap((column, i) => (column.kind === "field" ? [i] : [])),
      ...metrics.filter(({ i }) => varies(i)).slice(0, MOST_METRICS).map(({ i }) => i),
    ]),
  };
  gallery.listen = (listener) => listeners.push(listener);
  gallery.change = (changes, what) => {
    Object.assign(gallery.state, changes);
    listeners.forEach((listener) => listener(what));
  };
  gallery.isKept = (position) => !gallery.state.kept || gallery.state.kept.has(position);

  // A trial's value in a column; a dash where the trial does not set that field.
  gallery.value = (trial, i) => (trial.values[i] === "" ? "–" : trial.values[i]);

  // A trial's name is a hash; its first characters are enough to tell trials apart here.
  gallery.shortName = (name) => (name.length > 12 ? `${name.slice(0, 8)}…` : name);
  // Over an axis or a column the last part of a field's name is enough, unless two columns share it.
  gallery.shortField = (name) => {
    const last = (text) => text.split(".").at(-1);
    return data.columns.filter((column) => last(column.name) === last(name)).length > 1 ? name : last(name);
  };
  gallery.describe = (trial) =>
    data.columns.flatMap((column, i) => (column.kind === "field" ? [`${column.name} ${gallery.plain(gallery.value(trial, i))}`] : [])).join("\n");

  // Positions of the trials that may be compared in these columns: complete, with a number in each.
  gallery.comparable = (columns) =>
    data.trials.flatMap((trial, at) => (trial.complete && columns.every((i) => typeof trial.values[i] === "number") ? [at] : []));

  // The front of two columns, by the first: those that no other trial equals or beats in both and beats in one.
  gallery.front = (x, y, xGoal, yGoal) => {
    const sign = { max: 1, min: -1 };
    const value = (at) => [data.trials[at].values[x] * sign[xGoal], data.trials[at].values[y] * sign[yGoal]];
    const able = gallery.comparable([x, y]);
    const beats = (a, b) => a[0] >= b[0] && a[1] >= b[1] && (a[0] > b[0] || a[1] > b[1]);
    return able
      .filter((at) => !able.some((other) => beats(value(other), value(at))))
      .sort((a, b) => data.trials[a].values[x] - data.trials[b].values[x]);
  };
}
