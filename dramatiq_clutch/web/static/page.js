// Times in the viewer's zone, durations and bars that go on, and the page as it changes. Everything is readable without it.
"use strict";

const live = document.getElementById("live");
const pulse = document.querySelector("[data-pulse]");
const ahead = live ? Date.now() - Number(live.dataset.now) : 0; // of this clock, before the server's

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

function duration(milliseconds) {
  const seconds = milliseconds / 1000, whole = Math.floor(seconds);
  if (milliseconds < 100) return `${Math.round(milliseconds)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    const today = moment.toDateString() === new Date().toDateString();
    time.textContent = (today ? clock : day).format(moment);
    time.title = exact.format(moment);
  }
}

function tick(root) {
  for (const span of root.querySelectorAll("[data-from]")) {
    span.textContent = duration(Math.max(Date.now() - ahead - Number(span.dataset.from), 0));
  }
  grow(root);
}

// Draws a timeline up to now, as the server has drawn it: what is at work grows, and all the rest gets narrower.
function grow(root) {
  for (const chart of root.querySelectorAll(".timeline[data-grows]")) {
    const start = Number(chart.dataset.start), now = Date.now() - ahead, whole = Math.max(now - start, 1);
    const place = (at) => Math.min(Math.max((100 * (at - start)) / whole, 0), 99.6);
    for (const rect of chart.querySelectorAll("rect[data-at]")) {
      const at = place(Number(rect.dataset.at)), to = place("to" in rect.dataset ? Number(rect.dataset.to) : now);
      rect.setAttribute("x", at.toFixed(2));
      rect.setAttribute("width", Math.max(to - at, rect.hasAttribute("y") ? 0 : 0.4).toFixed(2));
    }
  }
}

// Makes one tree like another, and leaves alone what is the same: so the focus, what is open, and what is selected stay.
function morph(old, now) {
  if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName) return old.replaceWith(now);
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return undefined;
  }
  for (const { name } of [...old.attributes]) {
    if (!now.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of now.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  return morphChildren(old, now);
}

function keyOf(node) {
  return node && node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function morphChildren(old, now) {
  const keyed = new Map();
  for (const child of old.childNodes) if (keyOf(child) !== null) keyed.set(keyOf(child), child);
  const wanted = new Set([...now.childNodes].map(keyOf));
  let next = old.firstChild;
  for (const child of [...now.childNodes]) {
    while (next && keyOf(next) !== null && !wanted.has(keyOf(next))) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
    const key = keyOf(child);
    const same = key !== null ? keyed.get(key) : next && keyOf(next) === null ? next : undefined;
    if (!same) {
      old.insertBefore(child, next);
      continue;
    }
    if (same === next) next = next.nextSibling;
    else old.insertBefore(same, next);
    morph(same, child);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

function say(text, state) {
  if (!pulse || pulse.dataset.state === state) return;
  pulse.dataset.state = state;
  pulse.textContent = text;
}

let source = null;

function listen() {
  if (!live || source || document.hidden) return;
  source = new EventSource(live.dataset.feed);
  source.addEventListener("view", (event) => {
    const fresh = document.createElement("div");
    fresh.innerHTML = JSON.parse(event.data);
    localise(fresh);
    tick(fresh);
    morphChildren(live, fresh);
    say("live", "live");
  });
  source.addEventListener("away", () => say("the state store is away; it is tried again", "lost"));
  source.addEventListener("gone", () => {
    stop();
    say("this has gone since; reload to see", "lost");
  });
  source.onerror = () => {
    say("not connected; it is tried again", "lost");
    if (source && source.readyState === EventSource.CLOSED) stop();
  };
}

function stop() {
  if (source) source.close();
  source = null;
}

const again = document.querySelector("[data-again]"); // there is nothing to be seen as long as the store is away
if (again) {
  again.hidden = false;
  setTimeout(() => location.reload(), 5000);
}
const looked = document.querySelector(".stage > [aria-current]"); // of many stages, this one is to be in sight
if (looked) {
  const card = looked.parentNode, strip = card.closest(".scroll"), left = (one) => one.getBoundingClientRect().left;
  strip.scrollLeft += left(card) - left(strip) - (strip.clientWidth - card.clientWidth) / 2;
}
localise(document);
tick(document);
setInterval(() => tick(document), 1000);
// A tab that nobody sees holds no connection: a browser has few of them for a site.
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
addEventListener("pagehide", stop);
addEventListener("pageshow", listen);
listen();
