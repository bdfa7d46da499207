// The report's panels: what each draws of the data, given which arms are shown.

const data = JSON.parse(document.getElementById("data").textContent);
const names = data.arms.map(arm => arm.arm);
// touched: the reader has chosen arms. Until then forests and the table of runs show all of them, and line charts those of the start.
const state = { hidden: new Set(names.map((_, arm) => arm).filter(arm => !data.start.includes(arm))), touched: false, hot: null, seeds: true, alarms: true, bands: data.bands && data.start.length <= 8, zoom: null, log: new Set(), free: [...data.curves.free] };
const visible = () => names.map((_, arm) => arm).filter(arm => !state.hidden.has(arm));
const rowHidden = arm => state.touched && state.hidden.has(arm);
const runsOf = names.map((_, arm) => data.runs.map((run, index) => [run, index]).filter(([run]) => run.arm === arm).map(([, index]) => index));

function frame(parent, title, note = "", kind = null) {
  const figure = make("figure", { class: kind }, parent), head = make("figcaption", {}, figure);
  if (title) make("span", {}, head, title);
  const small = make("small", {}, head, note);
  return { figure, head, small, box: make("div", {}, figure) };
}

// Shares in 0…1 that coincide are drawn apart, downwards from 1 and upwards from 0, so that no line leaves the range.
function hairline(order, count) { return value => (order - (count - 1) * (1 - value)) * Math.min(2.5, 14 / count); }

// The arms' values told at one x, the nearest to the pointer marked.
function told(x, title, entries, distance) {
  let near = null;
  for (const entry of entries) if (near === null || Math.abs(distance(entry.y)) < Math.abs(distance(near.y))) near = entry;
  const rows = entries.sort((a, b) => b.y - a.y).map(entry => ({ arm: entry.arm, name: names[entry.arm], text: entry.text, near: entry === near }));
  return rows.length ? { x, title, rows } : null;
}

function nearest(values, wanted) {
  let best = 0;
  for (let index = 1; index < values.length; index++) if (Math.abs(values[index] - wanted) < Math.abs(values[best] - wanted)) best = index;
  return best;
}

const curvePanels = [];

function buildCurves(parent) {
  for (const metric of data.curves.fixed) curvePanels.push({ ...frame(parent, data.curves.metrics[metric].label), metric: () => metric });
  state.free.forEach((_, place) => {
    const panel = frame(parent, "", "", "free"), select = make("select", { "aria-label": "metric of this panel" });
    for (const [name, metric] of Object.entries(data.curves.metrics)) if (!data.curves.fixed.includes(name)) make("option", { value: name }, select, metric.label);
    panel.head.prepend(select);
    select.addEventListener("change", () => { state.free[place] = select.value; drawCurve(entry); remember(); });
    const entry = { ...panel, metric: () => state.free[place], select };
    curvePanels.push(entry);
  });
  for (const panel of curvePanels) {
    panel.button = make("button", { type: "button", "aria-pressed": "false", title: "logarithmic scale" }, panel.head, "log");
    panel.button.addEventListener("click", () => { const name = panel.metric(); state.log.has(name) ? state.log.delete(name) : state.log.add(name); drawCurve(panel); remember(); });
  }
}

function drawCurve(panel) {
  const name = panel.metric(), metric = data.curves.metrics[name], arms = visible(), log = state.log.has(name);
  if (panel.select) panel.select.value = name;
  panel.small.textContent = metric.unit;
  panel.button.setAttribute("aria-pressed", log);
  panel.figure.dataset.metric = name;
  const domain = state.zoom || [0, Math.max(data.updates, 1)], marks = [], values = [];
  const see = ys => ys.forEach((value, index) => { const x = metric.x[index]; if (x >= domain[0] && x <= domain[1] && !(log && value <= 0)) values.push(value); });
  for (const arm of arms) {
    see(metric.mean[arm]);
    if (state.seeds) for (const run of runsOf[arm]) { see(metric.seeds[run]); marks.push({ kind: "seed", arm, x: metric.x, y: metric.seeds[run] }); }
  }
  for (const arm of arms) {
    const mean = metric.mean[arm], half = metric.half[arm];
    if (state.bands) marks.push({ kind: "band", arm, x: metric.x.slice(0, half.length), low: half.map((h, i) => h === null ? null : mean[i] - h), high: half.map((h, i) => h === null ? null : mean[i] + h) });
    marks.push({ kind: "line", arm, x: metric.x, y: mean });
    const fallen = runsOf[arm].filter(run => data.runs[run].event).map(run => [data.runs[run].time, metric.seeds[run][metric.x.indexOf(data.runs[run].time)] ?? null]).filter(([, y]) => y !== null && !(log && y <= 0));
    if (fallen.length && state.seeds) marks.push({ kind: "cross", arm, x: fallen.map(([x]) => x), y: fallen.map(([, y]) => y) });
  }
  const sounding = data.alarms.alarms.filter(alarm => alarm.marked.includes(name)), heard = [];
  if (state.alarms && sounding.length) for (const arm of arms) {
    const own = runsOf[arm].flatMap(run => sounding.filter(alarm => data.alarms.sounded[run][alarm.name] !== undefined).map(alarm => {
      const x = data.alarms.sounded[run][alarm.name];
      return { arm, run, alarm, x, y: metric.seeds[run][nearest(metric.x, x)] ?? null };
    })).filter(({ y }) => y !== null && !(log && y <= 0));
    heard.push(...own);
    if (own.length) marks.push({ kind: "alarm", arm, x: own.map(({ x }) => x), y: own.map(({ y }) => y) });
  }
  marks.sort((a, b) => ["seed", "band", "line", "cross", "alarm"].indexOf(a.kind) - ["seed", "band", "line", "cross", "alarm"].indexOf(b.kind));
  const reach = extent(metric.mean.flat()) || [0, 0];
  panel.button.hidden = reach[0] < -0.01 * reach[1]; // an estimate of 0 may be a hair below it
  const rules = name === "eval/gold" ? [["sft", "SFT"], ["limit", "limit of collapse"]].filter(([line]) => data.lines[line] !== null).map(([line, text]) => ({ y: data.lines[line][0], low: data.lines[line][1], high: data.lines[line][2], text })) : [];
  if (!log) values.push(...rules.map(rule => rule.y));
  const range = extent(values) || [0, 1];
  plot(panel.box, {
    steps: metric.x.filter(x => x >= domain[0] && x <= domain[1]), x: { domain, label: "update" }, y: { domain: log ? [Math.max(range[0], range[1] / 1e5) / 1.1, range[1] * 1.1] : padded(range), log }, marks, rules: log ? [] : rules,
    label: `${metric.label} over updates, means at the end: ${arms.map(arm => `${names[arm]} ${shown(metric.mean[arm].findLast(value => value !== null) ?? null)}`).join(", ")}. Arrow keys tell the values.`, brush: (from, to) => { state.zoom = [from, to]; redrawCurves(); remember(); },
    unbrush: () => { state.zoom = null; redrawCurves(); remember(); },
    point: x => curvePanels.forEach(other => other.box.querySelector("svg")?.point(x)),
    hover: (x, distance) => {
      const at = nearest(metric.x, x);
      const entries = arms.filter(arm => metric.mean[arm][at] !== null && metric.mean[arm][at] !== undefined && !(log && metric.mean[arm][at] <= 0)).map(arm => {
        const half = metric.half[arm][at], mean = metric.mean[arm][at];
        return { arm, y: mean, text: `${shown(mean)}${half === null || half === undefined ? "" : ` ± ${shown(half, 2)}`}  (${metric.n[arm][at]})` };
      });
      const near = heard.filter(mark => nearest(metric.x, mark.x) === at).map(mark => `${names[mark.arm]} ${data.runs[mark.run].draw}`);
      return told(metric.x[at], `update ${metric.x[at]}: mean ± half the 95 % interval (units)${near.length ? `; alarm in ${near.slice(0, 6).join(", ")}${near.length > 6 ? " …" : ""}` : ""}`, entries, distance);
    },
  });
}

function redrawCurves() {
  curvePanels.forEach(drawCurve);
  document.getElementById("unzoom").hidden = state.zoom === null;
}

function drawForests(parent, panels) {
  parent.replaceChildren();
  for (const panel of panels) {
    const rows = panel.rows.filter(row => row.arm === undefined || !rowHidden(row.arm));
    if (!rows.length) continue;
    const { box } = frame(parent, panel.label, panel.margin ? `a difference: ± ${shown(panel.margin)}` : "");
    forest(box, { label: panel.label, unit: `difference, ${panel.unit}`, margin: panel.margin, rows: rows.map(row => ({ ...row, filled: row.p_holm !== null && row.p_holm < 0.05 && row.n > 1, told: [
      `${row.label}${row.change ? `: ${row.change}` : ""}`,
      `${shown(row.estimate)} ${row.low === null || row.high === null ? "" : `[${shown(row.low)}, ${shown(row.high)}]`}, ${row.basis}`,
      row.n > 1 ? `p = ${shown(row.p, 2)}, after Holm ${shown(row.p_holm, 2)}` : ""] })) });
  }
}

function drawThresholds(parent) {
  parent.replaceChildren();
  if (!data.thresholds) return;
  const { box } = frame(parent, "Collapse rate by threshold"), arms = visible(), lines = data.thresholds;
  const xs = lines.find(line => line.threshold.length)?.threshold;
  if (!xs) return;
  const marks = arms.map((arm, order) => ({ kind: "line", arm, x: lines[arm].threshold, y: lines[arm].rate, shift: hairline(order, arms.length) }));
  plot(box, {
    x: { domain: [xs[0], xs.at(-1)], label: "threshold: SDs of SFT's gold below SFT's mean" }, y: { domain: [-0.02, 1.02] }, height: 260, marks, label: "collapse rate by threshold",
    hover: (x, distance) => {
      const at = nearest(xs, x);
      const entries = arms.filter(arm => lines[arm].n[at]).map(arm => ({ arm, y: lines[arm].rate[at], text: `${lines[arm].collapses[at]} of ${lines[arm].n[at]} [${shown(lines[arm].low[at], 2)}, ${shown(lines[arm].high[at], 2)}]` }));
      return told(xs[at], `threshold ${shown(xs[at])} SD`, entries, distance);
    },
  });
}

function drawSurvival(parent) {
  parent.replaceChildren();
  if (!data.survival) { make("p", {}, parent, "Without a gold reward there is no collapse to wait for."); return; }
  const { box } = frame(parent, "Share of runs not yet collapsed"), arms = visible(), marks = [];
  const until = (line, time) => { let at = 0; while (at + 1 < line.time.length && line.time[at + 1] <= time) at++; return at; };
  arms.forEach((arm, order) => {
    const line = data.survival[arm], shift = hairline(order, arms.length);
    if (arms.length <= 4) {
      const xs = [], low = [], high = [];
      line.time.forEach((time, at) => { xs.push(time, line.time[at + 1] ?? time); low.push(line.low[at], line.low[at]); high.push(line.high[at], line.high[at]); });
      marks.push({ kind: "band", arm, x: xs, low, high });
    }
    marks.push({ kind: "step", arm, x: line.time, y: line.survival, shift });
    if (line.censored.length) marks.push({ kind: "tick", arm, x: line.censored, y: line.censored.map(time => line.survival[until(line, time)]), shift });
  });
  plot(box, {
    x: { domain: [0, Math.max(...data.survival.flatMap(line => line.time), 1)], label: data.time_unit }, y: { domain: [-0.02, 1.02] }, height: 280, marks, label: "Kaplan–Meier estimate per arm",
    hover: (x, distance) => {
      const time = Math.round(x);
      const entries = arms.map(arm => { const line = data.survival[arm], at = until(line, time); return { arm, y: line.survival[at], text: shown(line.survival[at], 2) + (line.low[at] === null ? "" : ` [${shown(line.low[at], 2)}, ${shown(line.high[at], 2)}]`) }; });
      return told(time, `share not collapsed after ${time} ${data.time_unit}`, entries, distance);
    },
  });
}

function drawOver(parent) {
  parent.replaceChildren();
  if (!data.over) { make("p", {}, parent, "This needs gold and KL on held-out prompts."); return; }
  const arms = visible(), paths = kind => arms.flatMap(arm => data.over[arm][kind].map(path => ({ ...path, arm })));
  const most = extent(paths("gold").flatMap(path => path.x))?.[1] || 1;
  for (const [kind, title] of [["gold", "Gold gained over SFT"], ["proxy", "Proxy gained over SFT"]]) {
    const found = paths(kind);
    if (!found.length) continue;
    const { box } = frame(parent, title), marks = found.flatMap(path => ["seed", "points"].map(kind => ({ kind, arm: path.arm, x: path.x, y: path.y })));
    if (kind === "gold") for (const arm of arms) if (data.over[arm].line) marks.push({ kind: "line", arm, x: data.over[arm].line.x, y: data.over[arm].line.y });
    plot(box, {
      x: { domain: [0, most * 1.02], label: "√KL to SFT" }, y: { domain: padded(extent([0, ...found.flatMap(path => path.y)])) }, height: 320, marks, rules: [{ y: 0, text: "SFT" }], label: `${title} against distance`,
      hover: (x, distance) => {
        const near = [];
        for (const arm of arms) {
          const ends = data.over[arm][kind].map(path => path.y[nearest(path.x, x)] ?? null), reached = data.over[arm][kind].filter(path => Math.max(...path.x) >= x);
          const values = data.over[arm][kind].filter(path => reached.includes(path)).map(path => path.y[nearest(path.x, x)]);
          if (values.length && ends.length) { const mean = values.reduce((a, b) => a + b, 0) / values.length; near.push({ arm, y: mean, text: `${shown(mean)}  (${values.length})` }); }
        }
        return told(x, `near √KL = ${shown(x)}: mean (runs that got there)`, near, distance);
      },
    });
  }
}
