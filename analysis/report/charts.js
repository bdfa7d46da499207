"use strict";
// SVG primitives: an x-y plot, a forest plot, a tooltip. They know nothing of the report's data; arms are numbers.

const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes = {}, parent = null, text = null) {
  const node = name in SHAPES ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}
const SHAPES = { svg: 1, path: 1, line: 1, rect: 1, circle: 1, text: 1, g: 1, clipPath: 1 };

function shown(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(1) : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

function ticks(low, high, most) {
  const raw = (high - low) / Math.max(most, 1), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(factor => factor * power).find(candidate => candidate >= raw * 0.999);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) found.push(Number((index * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  const factors = high / low > 300 ? [1] : high / low > 12 ? [1, 3] : [1, 2, 3, 5];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const factor of factors) {
      const value = Number((factor * 10 ** power).toPrecision(6));
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  return found.length > 1 ? found : [low, high];
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null) { if (value < low) low = value; if (value > high) high = value; }
  return low <= high ? [low, high] : null;
}

function padded([low, high], share = 0.05) {
  const gap = high > low ? (high - low) * share : Math.abs(high) * 0.1 || 1;
  return [low - gap, high + gap];
}

function scale([low, high], [from, to], log = false) {
  const map = log ? Math.log10 : value => value, start = map(low), width = map(high) - start || 1;
  const place = value => from + (map(value) - start) / width * (to - from);
  place.invert = pixel => start + (pixel - from) / (to - from) * width;
  return place;
}

// "M…L…" through what is measured; a step holds the last value until the next time.
function track(xs, ys, X, Y, { step = false, log = false } = {}) {
  let d = "", pen = false, last = 0;
  for (let index = 0; index < ys.length; index++) {
    const value = ys[index];
    if (value === null || value === undefined || (log && value <= 0)) { if (value !== undefined) pen = pen && !step ? pen : false; continue; }
    const x = X(xs[index]).toFixed(1), y = Y(value).toFixed(1);
    d += pen ? (step ? `H${x}V${y}` : `L${x} ${y}`) : `M${x} ${y}`;
    pen = true; last = x;
  }
  return d;
}

let clips = 0;

// spec: {x: {domain, label}, y: {domain, log}, marks, rules, hover(x, y) → {title, rows} | null, brush(from, to), height, label}
// steps: values of x that the arrow keys go through, by default forty of the domain
// marks: {kind: line | seed | step | band | cross | tick | points | alarm, arm, x, y, low, high, shift}; shift: value → pixels
function plot(box, spec) {
  const width = Math.max(box.clientWidth, 240), height = spec.height || 230, left = 44, right = 8, top = 8, bottom = spec.x.label ? 36 : 22;
  const X = scale(spec.x.domain, [left, width - right]), Y = scale(spec.y.domain, [height - bottom, top], spec.y.log);
  const svg = make("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": spec.label });
  const clip = `clip${++clips}`;
  make("rect", { x: left, y: top - 3, width: width - left - right, height: height - top - bottom + 6 }, make("clipPath", { id: clip }, svg));
  for (const value of spec.y.log ? logTicks(...spec.y.domain) : ticks(...spec.y.domain, height / 48)) {
    make("path", { class: "grid", d: `M${left} ${Y(value)}H${width - right}` }, svg);
    make("text", { x: left - 6, y: Y(value) + 4, "text-anchor": "end" }, svg, shown(value));
  }
  for (const value of ticks(...spec.x.domain, width / 75)) make("text", { x: X(value), y: height - bottom + 15, "text-anchor": "middle" }, svg, shown(value, 4));
  make("path", { class: "base", d: `M${left} ${height - bottom + .5}H${width - right}` }, svg);
  if (spec.x.label) make("text", { x: width - right, y: height - 3, "text-anchor": "end" }, svg, spec.x.label);
  const inner = make("g", { "clip-path": `url(#${clip})` }, svg);
  for (const rule of spec.rules || []) {
    if (rule.high > rule.low) make("rect", { class: "margin", x: left, y: Y(rule.high), width: width - left - right, height: Y(rule.low) - Y(rule.high) }, inner);
    make("path", { class: "rule", d: `M${left} ${Y(rule.y)}H${width - right}` }, inner);
    make("text", { x: width - right - 2, y: Y(rule.y) - 4, "text-anchor": "end" }, inner, rule.text);
  }
  for (const mark of spec.marks) draw(inner, mark, X, Y, spec.y.log);
  replaceChart(box, svg);
  listen(svg, spec, X, Y, { left, right: width - right, top, bottom: height - bottom, width });
  return svg;
}

function replaceChart(box, svg) {
  const old = box.querySelector("svg"), focused = old !== null && old === document.activeElement;
  old?.remove();
  box.append(svg);
  svg.setAttribute("tabindex", 0);
  if (focused) svg.focus();
}

function draw(parent, mark, X, Y, log) {
  const shifted = mark.shift ? value => Y(value) + mark.shift(value) : Y;
  const base = { "data-arm": mark.arm, class: mark.kind };
  if (mark.kind === "band") {
    const whole = mark.x.map((x, index) => [x, mark.low[index], mark.high[index]]).filter(([, low, high]) => low !== null && low !== undefined && high !== null && (!log || low > 0));
    if (whole.length < 2) return;
    const there = whole.map(([x, , high]) => `${X(x).toFixed(1)} ${Y(high).toFixed(1)}`), back = whole.map(([x, low]) => `${X(x).toFixed(1)} ${Y(low).toFixed(1)}`).reverse();
    paint(make("path", { ...base, d: `M${there.join("L")}L${back.join("L")}Z` }, parent), mark.arm, "fill");
  } else if (mark.kind === "alarm") {
    const d = mark.x.map((x, index) => `M${X(x).toFixed(1)} ${(shifted(mark.y[index]) - 5).toFixed(1)}l5 9h-10z`).join("");
    paint(make("path", { ...base, d }, parent), mark.arm, "fill");
  } else if (mark.kind === "cross" || mark.kind === "tick" || mark.kind === "points") {
    const shape = { cross: "m-3.5 -3.5l7 7m0 -7l-7 7", tick: "m0 -4v8", points: "h.01" }[mark.kind];
    const d = mark.x.map((x, index) => `M${X(x).toFixed(1)} ${shifted(mark.y[index]).toFixed(1)}${shape}`).join("");
    paint(make("path", { ...base, d }, parent), mark.arm, "stroke");
  } else {
    const d = track(mark.x, mark.y, X, shifted, { step: mark.kind === "step", log });
    if (!d) return;
    const path = paint(make("path", { ...base, class: mark.kind === "step" ? "line" : mark.kind, d }, parent), mark.arm, "stroke");
    if (mark.kind !== "seed") path.style.strokeDasharray = `var(--dash-${mark.arm})`;
  }
}

function paint(node, arm, ...properties) {
  for (const property of properties) node.style[property] = `var(--arm-${arm})`;
  return node;
}

function listen(svg, spec, X, Y, area) {
  const toX = event => { const frame = svg.getBoundingClientRect(); return (event.clientX - frame.left) * area.width / frame.width; };
  const cursor = make("path", { class: "cursor", visibility: "hidden" }, svg), brush = make("rect", { class: "brush", y: area.top, height: area.bottom - area.top, width: 0 }, svg);
  let start = null;
  svg.point = value => {
    cursor.setAttribute("visibility", value === null ? "hidden" : "visible");
    if (value !== null) cursor.setAttribute("d", `M${X(value)} ${area.top}V${area.bottom}`);
  };
  const inside = pixel => Math.min(Math.max(pixel, area.left), area.right);
  svg.addEventListener("pointermove", event => {
    const pixel = inside(toX(event));
    if (start !== null) { brush.setAttribute("x", Math.min(start, pixel)); brush.setAttribute("width", Math.abs(pixel - start)); }
    const frame = svg.getBoundingClientRect(), told = spec.hover?.(X.invert(pixel), value => Y(value) - (event.clientY - frame.top));
    if (told) { (spec.point || svg.point)(told.x); tell(told, event); }
  });
  svg.addEventListener("pointerleave", () => { (spec.point || svg.point)(null); hush(); });
  const steps = spec.steps || Array.from({ length: 41 }, (_, index) => spec.x.domain[0] + index * (spec.x.domain[1] - spec.x.domain[0]) / 40);
  let at = -1;
  svg.addEventListener("keydown", event => {
    if (spec.brush && event.key === "+" && steps[at] !== undefined) { const reach = (spec.x.domain[1] - spec.x.domain[0]) / 4; spec.brush(Math.max(spec.x.domain[0], steps[at] - reach), Math.min(spec.x.domain[1], steps[at] + reach)); return; }
    if (spec.brush && event.key === "-") { spec.unbrush(); return; }
    const to = { ArrowRight: at + 1, ArrowLeft: at < 0 ? steps.length - 1 : at - 1, Home: 0, End: steps.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    at = Math.min(Math.max(to, 0), steps.length - 1);
    const told = spec.hover?.(steps[at], () => 0), frame = svg.getBoundingClientRect();
    if (told) { (spec.point || svg.point)(told.x); tell(told, { clientX: frame.left + X(steps[at]) * frame.width / area.width, clientY: frame.top + frame.height / 2 }); }
  });
  svg.addEventListener("blur", () => { (spec.point || svg.point)(null); hush(); });
  if (!spec.brush) return;
  svg.addEventListener("pointerdown", event => { if (event.pointerType === "mouse" && event.button === 0) { start = inside(toX(event)); svg.setPointerCapture(event.pointerId); event.preventDefault(); } });
  svg.addEventListener("pointerup", event => {
    if (start === null) return;
    const [from, to] = [start, inside(toX(event))].sort((a, b) => a - b);
    start = null; brush.setAttribute("width", 0);
    if (to - from > 12) spec.brush(X.invert(from), X.invert(to));
  });
}

const tooltip = document.getElementById("tooltip");

// told: {title, rows: [{arm, name, text, near}]}
function tell(told, event) {
  tooltip.replaceChildren();
  tooltip.removeAttribute("aria-hidden");
  make("div", {}, tooltip, told.title);
  for (const row of told.rows) {
    const line = make("div", { class: row.near ? "row near" : "row" }, tooltip);
    line.append(key(row.arm));
    make("span", {}, line, row.name);
    make("span", {}, line, row.text);
  }
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect(), room = document.documentElement.clientWidth;
  const x = event.clientX + 18 + width < room ? event.clientX + 18 : Math.max(4, event.clientX - 18 - width);
  tooltip.style.left = `${Math.min(x, Math.max(4, room - width - 4))}px`;
  tooltip.style.top = `${Math.max(4, Math.min(event.clientY - height / 2, innerHeight - height - 4))}px`;
}

function hush() { tooltip.hidden = true; }

function key(arm) {
  const svg = make("svg", { class: "key", viewBox: "0 0 26 10", "aria-hidden": "true" });
  const path = paint(make("path", { d: "M1 5H25" }, svg), arm, "stroke");
  path.style.strokeDasharray = `var(--dash-${arm})`;
  return svg;
}

// rows: {label, arm (or none), estimate, low, high, n, filled, told}; margin: half the width of the strip around 0
function forest(box, { rows, margin, label, unit }) {
  const width = Math.max(box.clientWidth, 240), step = 19, left = Math.min(150, width * .4), right = 10, bottom = 36, height = rows.length * step + bottom + 4;
  const estimates = extent([0, ...rows.map(row => row.estimate)]), reach = Math.max(estimates[1] - estimates[0], margin || 0, 1e-9) * 1.2;
  const ends = extent([0, ...rows.flatMap(row => [row.low, row.estimate, row.high])]);
  const domain = padded([Math.max(ends[0], estimates[0] - reach), Math.min(ends[1], estimates[1] + reach)]);
  const X = scale(domain, [left, width - right]), clamp = value => Math.min(Math.max(X(value), left), width - right);
  const svg = make("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `effects on ${label}: ${rows.map(row => `${row.label} ${shown(row.estimate)}${row.low === null || row.high === null ? "" : ` from ${shown(row.low)} to ${shown(row.high)}`}`).join(", ")}` });
  if (margin) make("rect", { class: "margin", x: clamp(-margin), width: clamp(margin) - clamp(-margin), y: 0, height: height - bottom }, svg);
  for (const value of ticks(...domain, (width - left) / 55)) {
    make("path", { class: "grid", d: `M${X(value)} 0V${height - bottom}` }, svg);
    make("text", { x: X(value), y: height - bottom + 15, "text-anchor": "middle" }, svg, shown(value));
  }
  make("path", { class: "base", d: `M${X(0)} 0V${height - bottom}` }, svg);
  make("text", { x: width - right, y: height - 4, "text-anchor": "end" }, svg, unit);
  rows.forEach((row, index) => {
    const y = index * step + step / 2 + 2, group = make("g", { "data-arm": row.arm }, svg), colour = row.arm ?? "none";
    const name = make("text", { class: "row", x: 0, y: y + 4 }, group, row.label);
    clipText(name, row.label, left - 10);
    if (row.low !== null && row.high !== null) paint(make("path", { class: "whisker", d: `M${clamp(row.low)} ${y}H${clamp(row.high)}` }, group), colour, "stroke");
    paint(make("circle", { class: row.filled ? "" : "open", cx: X(row.estimate), cy: y, r: 4 }, group), colour, row.filled ? "fill" : "stroke");
    const target = make("rect", { x: 0, y: y - step / 2, width, height: step, fill: "transparent" }, group);
    target.addEventListener("pointermove", event => tellRow(row, event));
    target.addEventListener("pointerleave", hush);
  });
  let at = -1;
  svg.addEventListener("keydown", event => {
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    at = Math.min(Math.max(to, 0), rows.length - 1);
    const frame = svg.getBoundingClientRect();
    tellRow(rows[at], { clientX: frame.left + X(rows[at].estimate) * frame.width / width, clientY: frame.top + (at * step + step / 2) * frame.height / height });
  });
  svg.addEventListener("blur", hush);
  replaceChart(box, svg);
}

function tellRow(row, place) {
  tell({ title: row.told[0], rows: [] }, place);
  for (const line of row.told.slice(1)) make("div", {}, tooltip, line);
}

function clipText(node, text, room) {
  const most = Math.floor(room / 6.6);
  if (text.length > most) node.textContent = text.slice(0, most - 1) + "…";
}
