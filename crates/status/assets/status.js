// Keeps the page fresh. Behind a load balancer each question may be answered by another instance: all that have
// answered are shown in the picture, and who answered last in the rest.
"use strict";

const EVERY = 2000;
const KEPT = 60;
const WIDTH = 600;
const HEIGHT = 120;
const MOST = 6;

const answers = new Map();
const at = (id) => document.getElementById(id);

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function uptime(seconds) {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

function draw() {
  const seen = [...answers.values()];
  const peak = Math.max(1, ...seen.flatMap((answer) => answer.status.requests));
  const lines = seen.map((answer, place) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const first = KEPT - answer.status.requests.length;
    const points = answer.status.requests.map((count, index) =>
      `${((first + index) * WIDTH) / (KEPT - 1)},${HEIGHT - (count * HEIGHT) / peak}`);
    line.setAttribute("points", points.join(" "));
    line.setAttribute("class", `i${place}`);
    return line;
  });
  at("picture").replaceChildren(...lines);
  at("peak").textContent = peak;
  at("instances").replaceChildren(...seen.map((answer, place) =>
    element("li", `${answer.status.instance}: ${answer.times} of these answers`, `i${place}`)));
}

function show(status) {
  at("instance").textContent = status.instance;
  at("version").textContent = status.version;
  at("uptime").textContent = uptime(status.uptime_seconds);
  at("facts").replaceChildren(...status.facts.map((fact) => {
    const card = element("div", undefined, fact.alarming ? "alarming" : "");
    card.append(element("dt", fact.name), element("dd", fact.value));
    return card;
  }));
  at("tables").replaceChildren(...status.tables.map((table) => {
    const section = element("section");
    const made = element("table");
    const head = made.createTHead().insertRow();
    for (const column of table.columns) {
      const cell = element("th", column);
      cell.scope = "col";
      head.append(cell);
    }
    const body = made.createTBody();
    for (const row of table.rows) body.insertRow().append(...row.map((cell) => element("td", cell)));
    section.append(element("h2", table.name), made);
    return section;
  }));
}

async function refresh() {
  try {
    const answer = await fetch("status.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const status = await answer.json();
    const known = answers.get(status.instance);
    if (!known && answers.size === MOST) answers.delete(answers.keys().next().value);
    answers.set(status.instance, { status, times: (known ? known.times : 0) + 1 });
    show(status);
    draw();
    at("fresh").textContent = `As of ${new Date().toLocaleTimeString()}, by ${status.instance}.`;
  } catch (error) {
    at("fresh").textContent = `No answer at ${new Date().toLocaleTimeString()} (${error.message}); trying again.`;
  }
  setTimeout(refresh, EVERY);
}

refresh();
