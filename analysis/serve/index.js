"use strict";
// The rows are asked for again every few seconds and exchanged in place, so that filter, focus and scrolling stay.

const byId = id => document.getElementById(id);

function filter() {
  const wanted = byId("study-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of byId("studies").tBodies[0].rows) row.hidden = !wanted.every(word => row.textContent.toLowerCase().includes(word));
}

function say(text) { if (byId("state").textContent !== text) byId("state").textContent = text; }

async function refresh() {
  if (document.hidden) return;
  let page = null;
  try {
    const answer = await fetch("/", { cache: "no-store" });
    if (answer.ok) page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch { /* said below */ }
  const rows = page?.getElementById("studies")?.tBodies[0];
  if (!rows) { say("The server does not answer: what is shown is old."); return; }
  const focused = document.activeElement?.closest("#studies a")?.getAttribute("href");
  byId("studies").tBodies[0].replaceWith(rows);
  if (focused) [...document.querySelectorAll("#studies a")].find(link => link.getAttribute("href") === focused)?.focus();
  filter();
  say("");
}

byId("study-filter").addEventListener("input", filter);
setInterval(refresh, 1000 * Number(document.documentElement.dataset.reload));
