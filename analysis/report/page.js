// Legend, tables, theme, and what survives a reload.

const root = document.documentElement, byId = id => document.getElementById(id), memory = `report:${location.pathname}`;

function setColours() {
  data.arms.forEach((arm, index) => {
    root.style.setProperty(`--arm-${index}`, `light-dark(${arm.colour[0]}, ${arm.colour[1]})`);
    root.style.setProperty(`--dash-${index}`, arm.dash || "none");
  });
  root.style.setProperty("--arm-none", "var(--ink)");
  for (const node of document.querySelectorAll("svg[data-key]")) node.replaceWith(key(node.dataset.key));
}

function buildLegend() {
  const legend = byId("legend");
  names.forEach((name, arm) => {
    const button = make("button", { type: "button", "data-legend": arm, title: data.arms[arm].change || "the base", "aria-pressed": "true" }, legend);
    button.append(key(arm));
    make("span", {}, button, name);
    button.addEventListener("click", event => { event.shiftKey ? only(arm) : state.hidden.has(arm) ? state.hidden.delete(arm) : state.hidden.add(arm); chosen(); });
    button.addEventListener("dblclick", () => { only(arm); chosen(); });
    for (const [happens, hot] of [["pointerenter", arm], ["focus", arm], ["pointerleave", null], ["blur", null]]) button.addEventListener(happens, () => heat(hot));
  });
  const all = make("button", { type: "button", class: "all", id: "all-arms", title: "click an arm to hide it, shift-click or double-click to see it alone" }, legend, "all");
  all.addEventListener("click", () => { state.hidden.clear(); chosen(); });
  const none = make("button", { type: "button", class: "all", id: "no-arms" }, legend, "none");
  none.addEventListener("click", () => { names.forEach((_, arm) => state.hidden.add(arm)); chosen(); });
}

function chosen() { state.touched = true; redraw(); }

function only(arm) { names.forEach((_, other) => other === arm ? state.hidden.delete(other) : state.hidden.add(other)); }

function heat(arm) {
  state.hot = arm;
  for (const node of document.querySelectorAll(".chart [data-arm]")) node.classList.toggle("dim", arm !== null && !state.hidden.has(arm) && node.dataset.arm !== String(arm));
}

function redraw() {
  for (const button of document.querySelectorAll("[data-legend]")) button.setAttribute("aria-pressed", !state.hidden.has(Number(button.dataset.legend)));
  redrawCurves();
  drawForests(byId("forest"), data.effects);
  drawFactorial();
  drawThresholds(byId("thresholds"));
  drawSurvival(byId("survival-panel"));
  drawOver(byId("over-panels"));
  filterRuns();
  drawTexts();
  drawTokens();
  heat(state.hot);
  remember();
}

function drawFactorial() {
  const parent = byId("factorial");
  parent.replaceChildren();
  if (!data.factorial.length) return;
  make("h3", {}, parent, "Main and two-way effects of the factorial");
  drawForests(make("div", { class: "panels" }, parent), data.factorial);
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [row, row.cells[column].dataset.sort]);
    const compare = (a, b) => a === "" || b === "" || isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    rows.sort(([, a], [, b]) => a === undefined || b === undefined ? (a === undefined) - (b === undefined) : sign * compare(a, b)); // gaps last, both ways
    body.append(...rows.map(([row]) => row));
  }));
}

function filterRuns() {
  const words = byId("run-filter").value.toLowerCase().split(/\s+/).filter(Boolean), rows = [...byId("run-table").tBodies[0].rows];
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = rowHidden(Number(row.dataset.arm)) || !words.every(word => text.includes(word));
    count += !row.hidden;
  }
  byId("run-count").textContent = `${count} of ${rows.length} runs`;
}

function remember() {
  const kept = { ...reading, tokens: rememberTokens(), otherName: names[reading.other], hidden: [...state.hidden].map(arm => names[arm]), touched: state.touched, armName: names[reading.arm], promptText: data.texts?.prompts[reading.prompt], atEnd: data.texts && reading.update === data.texts.updates.length - 1,
    updateName: data.texts?.updates[reading.update], seeds: state.seeds, bands: state.bands, alarms: state.alarms, zoom: state.zoom, log: [...state.log], free: state.free, filter: byId("run-filter").value, scroll: scrollY, theme: root.dataset.theme };
  try { sessionStorage.setItem(memory, JSON.stringify(kept)); } catch { /* storage may be forbidden for local files: nothing is kept then */ }
}

// What is kept is kept by name: a rebuilt page may hold more arms, prompts and updates.
function recall() {
  let kept = null;
  try { kept = JSON.parse(sessionStorage.getItem(memory)); } catch { return null; }
  if (!kept) return null;
  state.hidden.clear();
  kept.hidden.map(name => names.indexOf(name)).filter(arm => arm >= 0).forEach(arm => state.hidden.add(arm));
  Object.assign(state, { touched: kept.touched, seeds: kept.seeds, bands: kept.bands, alarms: kept.alarms ?? true, zoom: kept.zoom, log: new Set(kept.log) });
  if (kept.free.length === state.free.length && kept.free.every(name => name in data.curves.metrics)) state.free = kept.free;
  byId("run-filter").value = kept.filter;
  if (kept.theme) root.dataset.theme = kept.theme;
  if (data.texts) {
    const prompt = data.texts.prompts.indexOf(kept.promptText), update = data.texts.updates.indexOf(kept.updateName);
    Object.assign(reading, { view: kept.view, arm: Math.max(0, names.indexOf(kept.armName)), other: names.indexOf(kept.otherName), seed: data.texts.seeds.includes(kept.seed) ? kept.seed : reading.seed });
    if (prompt >= 0) reading.prompt = prompt;
    if (update >= 0 && !kept.atEnd) reading.update = update;
  }
  recallTokens(kept.tokens);
  return kept.scroll;
}

function start() {
  setColours();
  buildLegend();
  buildCurves(byId("curve-panels"));
  buildTexts();
  buildTokens();
  const scroll = recall();
  for (const [id, field] of [["show-seeds", "seeds"], ["show-bands", "bands"], ["show-alarms", "alarms"]]) {
    byId(id).checked = state[field];
    byId(id).addEventListener("change", event => { state[field] = event.target.checked; redrawCurves(); remember(); });
  }
  byId("unzoom").addEventListener("click", () => { state.zoom = null; redrawCurves(); remember(); });
  byId("run-filter").addEventListener("input", () => { filterRuns(); remember(); });
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  byId("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember();
  });
  redraw();
  let width = root.clientWidth;
  addEventListener("resize", () => { if (root.clientWidth !== width) { width = root.clientWidth; redraw(); } });
  const seconds = Number(root.dataset.reload);
  if (!seconds) return;
  if (scroll) scrollTo(0, scroll);
  addEventListener("pagehide", remember);
  let quiet = Date.now();
  for (const busy of ["pointermove", "pointerdown", "keydown", "wheel", "touchmove"]) addEventListener(busy, () => { quiet = Date.now(); }, { passive: true });
  setInterval(() => { if (!document.hidden && Date.now() - quiet > 4000) location.reload(); }, seconds * 1000);
}

start();
