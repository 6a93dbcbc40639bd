"use strict";
// Shows the data of /events. Text from devices is set as text, never as HTML.

const cards = new Map();

function cardOf(name) {
  if (!cards.has(name)) {
    const node = document.getElementById("device").content.cloneNode(true).firstElementChild;
    node.querySelector("[data-name]").textContent = name;
    document.getElementById("devices").append(node);
    cards.set(name, node);
  }
  return cards.get(name);
}

function cell(text, className) {
  const td = document.createElement("td");
  if (className) td.className = className;
  td.textContent = text;
  return td;
}

// Cells counted once each, with limits; where nothing is counted, sums over all frames.
function showCounts(card, device, colours) {
  const total = Object.values(device.cells).reduce((a, b) => a + b, 0);
  const differential = device.differential;
  card.querySelector("[data-counted]").textContent = differential ? "counted once" : "in all frames";
  for (const node of card.querySelectorAll("[data-limits]")) node.hidden = !differential;
  const names = Object.keys(differential || device.cells);
  card.querySelector("tbody").replaceChildren(...names.map((name) => {
    const row = document.createElement("tr");
    const mark = cell("");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colours[name] || "#cc79a7";
    mark.append(swatch);
    row.append(mark, cell(name), cell(device.is_stale ? "-" : device.in_view[name] || 0));
    if (differential) {
      const one = differential[name];
      row.append(cell(one.count.toLocaleString("en")), cell(one.share),
        cell(one.limits), cell(one.more.toLocaleString("en")));
    } else {
      const count = device.cells[name];
      row.append(cell(count.toLocaleString("en")), cell((100 * count / total).toFixed(1) + " %"));
    }
    return row;
  }));
}

function showFacts(list, facts) {
  list.replaceChildren(...Object.entries(facts).flatMap(([term, value]) => {
    const dt = document.createElement("dt");
    const dd = document.createElement("dd");
    dt.textContent = term;
    dd.textContent = value;
    return [dt, dd];
  }));
}

function showAlarms(list, alarms) {
  list.replaceChildren(...alarms.map((alarm) => {
    const item = document.createElement("li");
    item.className = alarm.severity === "red" ? "bad" : "warn";
    item.textContent = alarm.text;
    return item;
  }));
}

function showDevice(device, colours) {
  const card = cardOf(device.device);
  card.classList.toggle("stale", device.is_stale);
  const state = card.querySelector("[data-state]");
  state.textContent = device.is_stale ? device.state + ", not live" : "live";
  state.className = device.is_stale ? "bad" : "good";
  showCounts(card, device, colours);
  showFacts(card.querySelector("[data-facts]"), device.facts);
  card.querySelector("[data-reason]").textContent = device.reason || "";
  showAlarms(card.querySelector("[data-alarms]"), device.alarms);
  const image = card.querySelector("[data-preview]");
  if (device.preview_seq && image.dataset.seq !== String(device.preview_seq)) {
    image.dataset.seq = device.preview_seq;
    image.src = `preview/${encodeURIComponent(device.device)}.jpg?row=${device.preview_seq}`;
    card.querySelector("[data-caption]").textContent =
      `row ${device.preview_seq}, drawn on the frame that was examined`;
  }
}

function show(view) {
  document.getElementById("nothing").hidden = view.devices.length > 0;
  const archive = document.getElementById("archive");
  archive.textContent = "archive " + view.archive;
  archive.className = view.archive === "online" ? "good" : "bad";
  for (const device of view.devices) showDevice(device, view.colours);
}

const link = document.getElementById("link");
const maxSilenceMs = 3000;
let lastDataMs = Date.now();

function loseLink() {
  link.textContent = "connection lost: what is shown is not live";
  link.className = "bad";
  for (const card of cards.values()) {
    card.classList.add("stale");
    const state = card.querySelector("[data-state]");
    state.textContent = "not live";
    state.className = "bad";
  }
}

const events = new EventSource("events");
events.onmessage = (event) => {
  lastDataMs = Date.now();
  const view = JSON.parse(event.data);
  link.textContent = view.trouble ? "not connected: " + view.trouble : "connected";
  link.className = view.trouble ? "bad" : "good";
  show(view);
};
events.onerror = loseLink;
setInterval(() => { if (Date.now() - lastDataMs > maxSilenceMs) loseLink(); }, 1000);
