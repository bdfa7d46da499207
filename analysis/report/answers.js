// The sampled answers: all arms at one update, one arm over the updates, or two arms side by side with the words that differ marked.

const SFT = -1; // in place of an arm: the answer before PPO
const reading = { prompt: 0, seed: null, update: 0, view: "arms", arm: 0, other: SFT };

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
  choose("text-view", "show", [["arms", "all arms at one update"], ["updates", "one arm over the updates"], ["pair", "two arms side by side"]], "view", String);
  choose("text-prompt", "prompt", texts.prompts.map((prompt, index) => [index, `${prompt.length > 60 ? prompt.slice(0, 59) + "…" : prompt}${texts.kinds[index] ? ` (${texts.kinds[index]})` : ""}`]), "prompt");
  choose("text-seed", "seed", texts.seeds.map((seed, index) => [index, seed]), "seed", value => texts.seeds[Number(value)]);
  const everyArm = names.map((name, arm) => [arm, name]);
  choose("text-arm", "arm", everyArm, "arm");
  choose("text-other", "beside", [[SFT, "SFT, before PPO"], ...everyArm], "other");
  reading.other = names.length > 1 ? 1 : SFT;
  make("p", { class: "prompt", id: "text-shown-prompt" }, parent);
  const slider = make("label", { class: "slider", id: "text-slider" }, parent);
  make("span", { id: "text-update-name" }, slider);
  const range = make("input", { type: "range", id: "text-update", min: 0, max: texts.updates.length - 1, step: 1, "aria-label": "update" }, slider);
  range.addEventListener("input", () => { reading.update = Number(range.value); drawTexts(); remember(); });
  make("div", { class: "cards", id: "text-cards" }, parent);
  const all = texts.updates.length === texts.of.updates ? `all ${texts.of.updates} evaluations` : `${texts.updates.length} of ${texts.of.updates} evaluations, evenly spaced`;
  const caption = make("p", { class: "caption" }, parent);
  make("b", {}, caption, "Answers to one held-out prompt. ");
  caption.append(`The legend chooses the arms. Underlined: pairs of words that the answer has used before. Side by side, framed and underlined: words that the other answer does not have in this order. Held here: ${all}, ${texts.seeds.length} of ${texts.of.seeds} seeds, ${texts.prompts.length} prompts. The page opens with, ${texts.rule}.`);
}

function drawTexts() {
  const texts = data.texts;
  if (!texts) return;
  const cards = byId("text-cards"), updates = texts.updates, over = reading.view === "updates", pair = reading.view === "pair";
  for (const [id, value] of [["text-view", reading.view], ["text-prompt", reading.prompt], ["text-seed", texts.seeds.indexOf(reading.seed)], ["text-arm", reading.arm], ["text-other", reading.other], ["text-update", reading.update]]) byId(id).value = value;
  byId("text-arm").parentNode.hidden = !over && !pair;
  byId("text-other").parentNode.hidden = !pair;
  byId("text-slider").hidden = over;
  byId("text-update-name").textContent = `update ${updates[reading.update]}`;
  byId("text-update").setAttribute("aria-valuetext", `update ${updates[reading.update]}`);
  byId("text-shown-prompt").textContent = texts.prompts[reading.prompt];
  cards.replaceChildren();
  const runOf = arm => runsOf[arm].find(run => data.runs[run].draw === reading.seed), answer = (run, at) => run === undefined ? null : texts.answers[run]?.[reading.prompt]?.[at] ?? null;
  if (over) {
    const run = runOf(reading.arm);
    updates.forEach((update, at) => { const cell = answer(run, at); if (cell) card(cards, `update ${update}`, reading.arm, run, cell, update, "card whole"); });
  } else if (pair) {
    drawPair(cards, [reading.arm, reading.other].map(arm => {
      const run = runOf(arm === SFT ? 0 : arm), at = arm === SFT ? 0 : reading.update;
      return arm === SFT && updates[0] !== 0 ? { arm, cell: null } : { arm, run, cell: answer(run, at), update: updates[at] };
    }));
  } else {
    const first = answer(runOf(0), 0);
    if (first && updates[0] === 0 && reading.update > 0) card(cards, "SFT, before PPO", null, undefined, first, 0);
    for (const arm of visible()) {
      const run = runOf(arm), cell = answer(run, reading.update);
      if (cell) card(cards, names[arm], arm, run, cell, updates[reading.update]);
    }
  }
  cards.classList.toggle("two", pair);
  if (!cards.childElementCount) make("p", {}, cards, "No arm shown has an answer here: another update or seed, or more arms in the legend.");
}

function drawPair(parent, sides) {
  if (sides.some(side => !side.cell)) return;
  const texts = sides.map(side => words(data.texts.strings[side.cell[0]])), shared = common(...texts);
  sides.forEach((side, index) => {
    const title = side.arm === SFT ? "SFT, before PPO" : names[side.arm], only = shared[index].filter(kept => !kept).length;
    const box = card(parent, title, side.arm === SFT ? null : side.arm, side.arm === SFT ? undefined : side.run, side.cell, side.update);
    if (texts[index].length) writeDifferences(box.querySelector(".answer"), texts[index], shared[index]);
    make("p", { class: "numbers apart" }, box, only ? `${only} of ${texts[index].length} ${texts[index].unit} are not in the other answer` : "nothing that the other answer lacks");
  });
}

// Words, or characters where nothing is spaced.
function words(text) {
  const spaced = text.includes(" "), list = text === "" ? [] : spaced ? text.split(" ") : [...text];
  return Object.assign(list, { unit: spaced ? "words" : "characters", gap: spaced ? " " : "" });
}

// Two lists → for each, which of its entries are in their longest common subsequence.
function common(one, two) {
  const table = [new Uint16Array(two.length + 1)];
  for (let i = 1; i <= one.length; i++) {
    const row = new Uint16Array(two.length + 1), above = table[i - 1];
    for (let j = 1; j <= two.length; j++) row[j] = one[i - 1] === two[j - 1] ? above[j - 1] + 1 : Math.max(above[j], row[j - 1]);
    table.push(row);
  }
  const kept = [one.map(() => false), two.map(() => false)];
  for (let i = one.length, j = two.length; i && j;) {
    if (one[i - 1] === two[j - 1]) { kept[0][--i] = kept[1][--j] = true; }
    else if (table[i - 1][j] >= table[i][j - 1]) i--;
    else j--;
  }
  return kept;
}

function writeDifferences(parent, list, shared) {
  parent.replaceChildren();
  for (let start = 0, end; start < list.length; start = end) {
    for (end = start + 1; end < list.length && shared[end] === shared[start];) end++;
    if (start) parent.append(list.gap);
    const part = list.slice(start, end).join(list.gap);
    if (shared[start]) parent.append(part); else make("mark", {}, parent, part);
  }
}

function card(parent, title, arm, run, [string, proxy, gold, length], update, kind = "card") {
  const box = make("article", { class: kind, "data-arm": arm }, parent);
  if (arm !== null) paint(box, arm, "borderTopColor");
  make("h4", {}, box, title);
  write(make("p", { class: "answer" }, box), data.texts.strings[string]);
  const numbers = make("p", { class: "numbers" }, box, [["gold", gold], ["proxy", proxy], ["length", length]].filter(([, value]) => value !== null).map(([name, value]) => `${name} ${shown(value)}`).join(" · "));
  const known = run !== undefined ? data.runs[run] : null;
  if (known?.event && update >= known.time) { numbers.append(" · "); make("span", { class: "state" }, numbers, `collapsed at ${known.time}`); }
  return box;
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
