// Legend, tables, the text, theme, and what survives a reload.

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

const reading = { prompt: 0, seed: null, update: 0, view: "arms", arm: 0 };

function buildTexts() {
  const parent = byId("texts"), texts = data.texts;
  if (!texts) { make("p", {}, parent, "These runs kept no samples."); return; }
  Object.assign(reading, { prompt: texts.default[0], seed: texts.default[1], update: texts.updates.length - 1 });
  const controls = make("div", { class: "controls" }, parent);
  const choose = (id, label, options, field, parse = Number) => {
    const box = make("label", {}, controls, `${label} `), select = make("select", { id }, box);
    for (const [value, text] of options) make("option", { value }, select, text);
    select.addEventListener("change", () => { reading[field] = parse(select.value); drawTexts(); remember(); });
  };
  choose("text-view", "show", [["arms", "all arms at one update"], ["updates", "one arm over the updates"]], "view", String);
  choose("text-prompt", "prompt", texts.prompts.map((prompt, index) => [index, `${prompt.length > 60 ? prompt.slice(0, 59) + "…" : prompt}${texts.kinds[index] ? ` (${texts.kinds[index]})` : ""}`]), "prompt");
  choose("text-seed", "seed", texts.seeds.map((seed, index) => [index, seed]), "seed", value => texts.seeds[Number(value)]);
  choose("text-arm", "arm", names.map((name, arm) => [arm, name]), "arm");
  make("p", { class: "prompt", id: "text-shown-prompt" }, parent);
  const slider = make("label", { class: "slider", id: "text-slider" }, parent);
  make("span", { id: "text-update-name" }, slider);
  const range = make("input", { type: "range", id: "text-update", min: 0, max: texts.updates.length - 1, step: 1, "aria-label": "update" }, slider);
  range.addEventListener("input", () => { reading.update = Number(range.value); drawTexts(); remember(); });
  make("div", { class: "cards", id: "text-cards" }, parent);
  const all = texts.updates.length === texts.of.updates ? `all ${texts.of.updates} evaluations` : `${texts.updates.length} of ${texts.of.updates} evaluations, evenly spaced`;
  const caption = make("p", { class: "caption" }, parent);
  make("b", {}, caption, "Answers to one held-out prompt. ");
  caption.append(`The legend chooses the arms. Underlined: pairs of words that the answer has used before. Held here: ${all}, ${texts.seeds.length} of ${texts.of.seeds} seeds, ${texts.prompts.length} prompts. The page opens with, ${texts.rule}.`);
}

function drawTexts() {
  const texts = data.texts;
  if (!texts) return;
  const cards = byId("text-cards"), updates = texts.updates, over = reading.view === "updates";
  for (const [id, value] of [["text-view", reading.view], ["text-prompt", reading.prompt], ["text-seed", texts.seeds.indexOf(reading.seed)], ["text-arm", reading.arm], ["text-update", reading.update]]) byId(id).value = value;
  byId("text-arm").parentNode.hidden = !over;
  byId("text-slider").hidden = over;
  byId("text-update-name").textContent = `update ${updates[reading.update]}`;
  byId("text-update").setAttribute("aria-valuetext", `update ${updates[reading.update]}`);
  byId("text-shown-prompt").textContent = texts.prompts[reading.prompt];
  cards.replaceChildren();
  const runOf = arm => runsOf[arm].find(run => data.runs[run].draw === reading.seed), answer = (run, at) => run === undefined ? null : texts.answers[run]?.[reading.prompt]?.[at] ?? null;
  if (over) {
    const run = runOf(reading.arm);
    updates.forEach((update, at) => { const cell = answer(run, at); if (cell) card(cards, `update ${update}`, reading.arm, run, cell, update, "card whole"); });
  } else {
    const first = answer(runOf(0), 0);
    if (first && updates[0] === 0 && reading.update > 0) card(cards, "SFT, before PPO", null, undefined, first, 0);
    for (const arm of visible()) {
      const run = runOf(arm), cell = answer(run, reading.update);
      if (cell) card(cards, names[arm], arm, run, cell, updates[reading.update]);
    }
  }
  if (!cards.childElementCount) make("p", {}, cards, "No arm shown has an answer here: another update or seed, or more arms in the legend.");
}

function card(parent, title, arm, run, [string, proxy, gold, length], update, kind = "card") {
  const box = make("article", { class: kind, "data-arm": arm }, parent);
  if (arm !== null) paint(box, arm, "borderTopColor");
  make("h4", {}, box, title);
  write(make("p", { class: "answer" }, box), data.texts.strings[string]);
  const numbers = make("p", { class: "numbers" }, box, [["gold", gold], ["proxy", proxy], ["length", length]].filter(([, value]) => value !== null).map(([name, value]) => `${name} ${shown(value)}`).join(" · "));
  const known = run !== undefined ? data.runs[run] : null;
  if (known?.event && update >= known.time) { numbers.append(" · "); make("span", { class: "state" }, numbers, `collapsed at ${known.time}`); }
}

// Words, or characters where nothing is spaced; a pair that the answer has already used is marked.
function write(parent, text) {
  if (!text) { make("small", {}, parent, "(empty)"); return; }
  const spaced = text.includes(" "), tokens = spaced ? text.split(" ") : [...text], seen = new Set();
  let plain = "", marked = "";
  const flush = () => { if (plain) parent.append(plain); if (marked) make("span", { class: "again" }, parent, marked); plain = marked = ""; };
  const again = tokens.map(() => false);
  tokens.forEach((token, index) => {
    if (!index) return;
    const pair = `${tokens[index - 1]} ${token}`;
    if (seen.has(pair)) again[index - 1] = again[index] = true;
    seen.add(pair);
  });
  tokens.forEach((token, index) => {
    const gap = spaced && index ? " " : "", was = index > 0 && again[index - 1];
    if (again[index]) { if (plain) { plain += gap; flush(); marked = token; } else marked += (was ? gap : "") + token; }
    else { if (marked) { flush(); plain = gap + token; } else plain += gap + token; }
  });
  flush();
}

function remember() {
  const kept = { ...reading, hidden: [...state.hidden].map(arm => names[arm]), touched: state.touched, armName: names[reading.arm], promptText: data.texts?.prompts[reading.prompt], atEnd: data.texts && reading.update === data.texts.updates.length - 1,
    updateName: data.texts?.updates[reading.update], seeds: state.seeds, bands: state.bands, zoom: state.zoom, log: [...state.log], free: state.free, filter: byId("run-filter").value, scroll: scrollY, theme: root.dataset.theme };
  try { sessionStorage.setItem(memory, JSON.stringify(kept)); } catch { /* storage may be forbidden for local files: nothing is kept then */ }
}

// What is kept is kept by name: a rebuilt page may hold more arms, prompts and updates.
function recall() {
  let kept = null;
  try { kept = JSON.parse(sessionStorage.getItem(memory)); } catch { return null; }
  if (!kept) return null;
  state.hidden.clear();
  kept.hidden.map(name => names.indexOf(name)).filter(arm => arm >= 0).forEach(arm => state.hidden.add(arm));
  Object.assign(state, { touched: kept.touched, seeds: kept.seeds, bands: kept.bands, zoom: kept.zoom, log: new Set(kept.log) });
  if (kept.free.length === state.free.length && kept.free.every(name => name in data.curves.metrics)) state.free = kept.free;
  byId("run-filter").value = kept.filter;
  if (kept.theme) root.dataset.theme = kept.theme;
  if (data.texts) {
    const prompt = data.texts.prompts.indexOf(kept.promptText), update = data.texts.updates.indexOf(kept.updateName);
    Object.assign(reading, { view: kept.view, arm: Math.max(0, names.indexOf(kept.armName)), seed: data.texts.seeds.includes(kept.seed) ? kept.seed : reading.seed });
    if (prompt >= 0) reading.prompt = prompt;
    if (update >= 0 && !kept.atEnd) reading.update = update;
  }
  return kept.scroll;
}

function start() {
  setColours();
  buildLegend();
  buildCurves(byId("curve-panels"));
  buildTexts();
  const scroll = recall();
  for (const [id, field] of [["show-seeds", "seeds"], ["show-bands", "bands"]]) {
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
