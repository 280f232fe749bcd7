// A room: what is said, who is here, and which worker process does what. Everything is put in as text, never as HTML.

import { Connection } from "./connection.js";

const main = document.getElementById("main");
const scroll = document.getElementById("scroll");
const log = document.getElementById("log");
const pending = document.getElementById("pending");
const state = document.getElementById("state");
const text = document.getElementById("text");

const name = sessionStorage.getItem("name") || `Guest ${Math.floor(10 + Math.random() * 90)}`;
sessionStorage.setItem("name", name);

// -- little helpers ------------------------------------------------------------------------------------------

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// Neighbouring numbers get colours that are far apart.
const hueOfPid = (pid) => Math.round((pid * 137.508) % 360);
const hueOfName = (who) => [...who].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);

function worker(pid, word = "") {
  const chip = make("span", "worker", make("i", ""), `${word}${pid}`);
  chip.style.setProperty("--hue", hueOfPid(pid));
  chip.dataset.pid = pid;
  return chip;
}

function avatar(who, kind) {
  const face = { bot: "", script: ">_" };
  const circle = make("span", "avatar", face[kind] ?? [...who][0].toUpperCase());
  circle.style.setProperty("--hue", hueOfName(who));
  circle.dataset.kind = kind ?? "visitor";
  circle.ariaHidden = "true";
  return circle;
}

const atBottom = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
const toBottom = () => (scroll.scrollTop = scroll.scrollHeight);

function append(list, item) {
  const follow = atBottom();
  document.getElementById("empty").hidden = true;
  list.append(item);
  if (follow) toBottom();
}

// -- what is said --------------------------------------------------------------------------------------------

const heard = new Set();
const mine = new Set();
let lastSaid = null;

function line(said, own) {
  const item = make("li", own ? "own" : "");
  const bubble = make("div", "bubble", said.text);
  const meta = make("div", "meta");
  if (said.delivered_by) {
    const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    meta.append(make("time", "", time), worker(said.pid), make("span", "arrow", "→"), worker(said.delivered_by));
    meta.title = `Said through process ${said.pid}, delivered to you by process ${said.delivered_by}`;
  } else {
    meta.append("sending…");
  }
  // Several lines of one voice in a row show the face once.
  const again = lastSaid && lastSaid.name === said.name && lastSaid.visitor === said.visitor;
  item.classList.toggle("again", Boolean(again));
  item.append(avatar(said.name, said.kind), make("div", "what", make("b", "", said.name), bubble, meta));
  Object.assign(item.dataset, { id: said.id ?? "", from: said.pid, by: said.delivered_by ?? "", kind: said.kind ?? "" });
  return item;
}

function note(words, ...more) {
  lastSaid = null;
  append(log, make("li", "note", make("span", "", words, ...more)));
}

// -- the connection ------------------------------------------------------------------------------------------

function show(which, ...words) {
  state.dataset.state = which;
  state.lastElementChild.replaceChildren(...words);
}

const url = new URL(`../../ws/room/${main.dataset.room}/`, location.href);
url.protocol = url.protocol.replace("http", "ws");
url.searchParams.set("name", name);
const connection = new Connection(url);

let me = null;
let down = false;

connection.addEventListener("welcome", ({ detail }) => {
  if (down) note("Back again, now served by ", worker(detail.pid, "worker "));
  down = false;
  me = detail.id;
  main.dataset.pid = detail.pid;
  main.dataset.welcomes = 1 + Number(main.dataset.welcomes ?? 0);
  show("open", worker(detail.pid, "served by worker "));
});

connection.addEventListener("lost", () => {
  if (!down) note("Connection lost");
  down = true;
  show("lost", "reconnecting…");
});

connection.addEventListener("said", ({ detail: said }) => {
  if (said.id && heard.has(said.id)) return; // sent again after a loss, but it had got through
  heard.add(said.id);
  const own = mine.delete(said.id);
  [...pending.children].find((item) => item.dataset.id === said.id)?.remove();
  append(log, line(said, own));
  lastSaid = said;
  if (own) toBottom();
});

connection.addEventListener("refused", ({ detail }) => note(detail.why));

// -- who is here ---------------------------------------------------------------------------------------------

connection.addEventListener("here", ({ detail: { visitors } }) => {
  const byWorker = Map.groupBy ? Map.groupBy(visitors, (each) => each.pid) : group(visitors);
  const blocks = [...byWorker].map(([pid, all]) => {
    const head = make("div", "head", worker(pid, "worker "));
    const kill = make("button", "kill", `kill -9 ${pid}`);
    kill.title = "Copy this command, run it in a shell, and see what happens";
    kill.addEventListener("click", () => copy(kill, `kill -9 ${pid}`));
    head.append(kill);
    const people = all.map((each) => {
      const person = make("li", "", avatar(each.name), make("span", "", each.name));
      if (each.id === me) person.append(make("em", "", "you"));
      Object.assign(person.dataset, { visitor: each.id, name: each.name, pid });
      return person;
    });
    const block = make("div", "crew", head, make("ul", "", ...people));
    block.style.setProperty("--hue", hueOfPid(pid));
    return block;
  });
  document.getElementById("here").replaceChildren(...blocks);
  document.getElementById("count").textContent = `${visitors.length} here`;
});

function group(visitors) {
  const found = new Map();
  for (const each of visitors) found.set(each.pid, [...(found.get(each.pid) ?? []), each]);
  return found;
}

async function copy(button, command) {
  try {
    await navigator.clipboard.writeText(command);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = command), 1200);
  } catch {
    getSelection().selectAllChildren(button); // no clipboard here: marked, to be copied by hand
  }
}

// -- saying something ----------------------------------------------------------------------------------------

document.getElementById("say").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!text.value.trim()) return;
  const said = { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, name, text: text.value.trim() };
  mine.add(said.id);
  append(pending, line(said, true));
  connection.say(said.id, said.text);
  text.value = "";
  grow();
  toBottom();
});

text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    text.form.requestSubmit();
  }
});

function grow() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + text.offsetHeight - text.clientHeight, 160)}px`;
}
text.addEventListener("input", grow);
