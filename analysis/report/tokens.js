// Answers token by token: four strips of colour under each token, one number, and all of them for the token that is pointed at or focused.

const MEASURES = { value: "value", advantage: "advantage", reward: "reward", kl: "KL to SFT" };
const SHADES = 8; // steps of colour, of which the last is the full one
const spelling = { prompt: 0, seed: null, update: 0, arm: 0, other: null, printed: "advantage" };
const known = measure => data.tokens.scale[measure] !== null;

function buildTokens() {
  const parent = byId("token-view"), tokens = data.tokens;
  if (!tokens) { make("p", {}, parent, "These runs kept no answers token by token: versions before tokens.jsonl did not write it."); return; }
  Object.assign(spelling, { seed: tokens.seeds[0], update: tokens.updates.length - 1, other: names.length > 1 ? 1 : null, printed: ["advantage", "reward", "kl"].find(known) });
  const controls = make("div", { class: "controls" }, parent);
  const choose = (id, label, options, field, parse = Number) => {
    const box = make("label", {}, controls, `${label} `), select = make("select", { id }, box);
    for (const [value, text] of options) make("option", { value }, select, text);
    select.addEventListener("change", () => { spelling[field] = parse(select.value); drawTokens(); remember(); });
  };
  const everyArm = names.map((name, arm) => [arm, name]);
  choose("token-arm", "arm", everyArm, "arm");
  choose("token-other", "and", [["", "no other"], ...everyArm], "other", value => value === "" ? null : Number(value));
  choose("token-prompt", "prompt", tokens.prompts.map((prompt, index) => [index, prompt.length > 60 ? prompt.slice(0, 59) + "…" : prompt]), "prompt");
  choose("token-seed", "seed", tokens.seeds.map((seed, index) => [index, seed]), "seed", value => tokens.seeds[Number(value)]);
  choose("token-update", "update", tokens.updates.map((update, index) => [index, update]), "update");
  choose("token-printed", "number under each token", Object.entries(MEASURES).filter(([measure]) => known(measure)), "printed", String);
  make("p", { class: "prompt", id: "token-shown-prompt" }, parent);
  const legend = make("ul", { class: "token-key" }, parent);
  for (const [measure, name] of Object.entries(MEASURES)) {
    const item = make("li", {}, legend), ramp = make("span", { class: "ramp", "aria-hidden": "true" }, item), full = tokens.scale[measure];
    for (const part of measure === "kl" ? [0, .5, 1] : [-1, -.5, 0, .5, 1]) shade(make("i", {}, ramp), part, full === null ? null : 1);
    item.append(full === null ? `${name}: not known here` : `${name}: full colour from ${measure === "kl" ? "" : "± "}${shown(full, 2)}${measure === "kl" ? " nats" : ""}`);
  }
  make("div", { id: "token-answers" }, parent);
  const all = tokens.updates.length === tokens.of.updates ? `all ${tokens.of.updates} evaluations` : `${tokens.updates.length} of ${tokens.of.updates} evaluations`;
  const caption = make("p", { class: "caption" }, parent);
  make("b", {}, caption, "Answers to a held-out prompt, token by token. ");
  caption.append(`Strips under a token, from the top: ${Object.values(MEASURES).join(", ")}. Hatched: below 0. Held here: ${all}, ${tokens.seeds.length} of ${tokens.of.seeds} seeds, at most ${tokens.longest} tokens of an answer.`);
}

function drawTokens() {
  const tokens = data.tokens;
  if (!tokens) return;
  // Seeds may have worlds, and so prompts, of their own.
  const answered = prompt => data.runs.some((run, index) => run.draw === spelling.seed && tokens.answers[index]?.[prompt].some(Boolean));
  if (!answered(spelling.prompt)) spelling.prompt = Math.max(0, tokens.prompts.findIndex((_, prompt) => answered(prompt)));
  for (const option of byId("token-prompt").options) option.disabled = !answered(Number(option.value));
  for (const [id, value] of [["token-arm", spelling.arm], ["token-other", spelling.other ?? ""], ["token-prompt", spelling.prompt], ["token-seed", tokens.seeds.indexOf(spelling.seed)], ["token-update", spelling.update], ["token-printed", spelling.printed]]) byId(id).value = value;
  byId("token-shown-prompt").textContent = tokens.prompts[spelling.prompt];
  const parent = byId("token-answers");
  parent.replaceChildren();
  for (const arm of new Set([spelling.arm, spelling.other])) {
    if (arm === null) continue;
    const run = runsOf[arm].find(run => data.runs[run].draw === spelling.seed), cell = run === undefined ? null : tokens.answers[run]?.[spelling.prompt]?.[spelling.update];
    if (cell) spell(parent, arm, cell); else make("p", {}, parent, `${names[arm]} has no answer here: choose another update, seed or prompt.`);
  }
}

function spell(parent, arm, cell) {
  const box = paint(make("article", { class: "card spelled" }, parent), arm, "borderTopColor"), title = make("h4", {}, box);
  title.append(key(arm), ` ${names[arm]}, update ${data.tokens.updates[spelling.update]}`);
  const list = make("div", { class: "tokens", role: "listbox", "aria-label": `${names[arm]}: ${cell.tokens.length} tokens, arrow keys go from one to the next` }, box);
  cell.tokens.forEach((token, index) => {
    const text = data.tokens.strings[token], lines = Object.keys(MEASURES).filter(measure => cell[measure]).map(measure => `${MEASURES[measure]} ${shown(cell[measure][index])}`);
    const node = make("span", { class: "token", role: "option", "aria-selected": "false", tabindex: index ? -1 : 0 }, list);
    make("span", { class: "word" }, node, text.trim() === "" ? "␣" : text.replaceAll("\n", "⏎"));
    const strips = make("span", { class: "strips" }, node);
    for (const measure of Object.keys(MEASURES)) shade(make("i", {}, strips), cell[measure]?.[index] ?? null, data.tokens.scale[measure]);
    make("span", { class: "spoken" }, node, `: ${lines.join(", ")}`);
    make("span", { class: "number", "aria-hidden": "true" }, node, cell[spelling.printed] ? shown(cell[spelling.printed][index], 2) : "–");
    const say = () => tellToken(node, `token ${index + 1} of ${cell.length}: ${text.trim() || "blank"}`, lines);
    for (const begins of ["pointerenter", "focus"]) node.addEventListener(begins, say);
    for (const ends of ["pointerleave", "blur"]) node.addEventListener(ends, hush);
    node.addEventListener("click", () => goTo(node));
  });
  list.addEventListener("keydown", event => {
    const nodes = [...list.children], at = nodes.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: nodes.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (nodes[to]) goTo(nodes[to]);
  });
  const sum = measure => cell[measure] ? cell[measure].reduce((total, value) => total + (value ?? 0), 0) : null;
  const sums = ["reward", "kl"].map(measure => [MEASURES[measure], sum(measure)]).filter(([, value]) => value !== null).map(([name, value]) => `sum of ${name} ${shown(value)}`);
  const cut = cell.tokens.length < cell.length ? [`the first ${cell.tokens.length} of ${cell.length} tokens`] : [`${cell.length} tokens`];
  make("p", { class: "numbers" }, box, [...cut, ...sums].join(" · "));
}

function goTo(node) {
  for (const other of node.parentNode.children) { other.tabIndex = other === node ? 0 : -1; other.setAttribute("aria-selected", other === node); }
  node.focus();
}

// The colour of a number: blue above 0, orange and hatched below, the stronger the larger; none where it is not known.
function shade(node, value, full) {
  if (value === null || full === null) { node.className = "unknown"; return; }
  const step = Math.min(SHADES, Math.round(Math.abs(value) / full * SHADES));
  node.className = value < 0 && step ? "minus" : "";
  node.style.backgroundColor = step ? `color-mix(in srgb, var(--${value < 0 ? "minus" : "plus"}) ${Math.round(100 * step / SHADES)}%, var(--faint))` : "var(--faint)";
}

// Told on focus too, where a screen reader says the token's own label: the tooltip is hidden from it.
function tellToken(node, title, lines) {
  const place = node.getBoundingClientRect();
  tell({ title, rows: [] }, { clientX: place.right - 12, clientY: place.top });
  for (const line of lines) make("div", {}, tooltip, line);
  tooltip.setAttribute("aria-hidden", "true");
}

function rememberTokens() {
  return data.tokens && { ...spelling, armName: names[spelling.arm], otherName: names[spelling.other] ?? null, promptText: data.tokens.prompts[spelling.prompt], updateName: data.tokens.updates[spelling.update], atEnd: spelling.update === data.tokens.updates.length - 1 };
}

function recallTokens(kept) {
  const tokens = data.tokens;
  if (!kept || !tokens) return;
  const prompt = tokens.prompts.indexOf(kept.promptText), update = tokens.updates.indexOf(kept.updateName), other = names.indexOf(kept.otherName);
  Object.assign(spelling, { arm: Math.max(0, names.indexOf(kept.armName)), other: other < 0 ? null : other, seed: tokens.seeds.includes(kept.seed) ? kept.seed : spelling.seed });
  if (known(kept.printed)) spelling.printed = kept.printed;
  if (prompt >= 0) spelling.prompt = prompt;
  if (update >= 0 && !kept.atEnd) spelling.update = update;
}
