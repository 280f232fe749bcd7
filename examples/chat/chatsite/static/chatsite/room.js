// A room: the messages, who is here, and which process does what. All text is inserted as text, never as HTML.

import { Connection } from "./connection.js";

const main = document.getElementById("main");
const scroll = document.getElementById("scroll");
const log = document.getElementById("log");
const pending = document.getElementById("pending");
const state = document.getElementById("state");
const text = document.getElementById("text");

const name = sessionStorage.getItem("name") || `Guest ${Math.floor(10 + Math.random() * 90)}`;
sessionStorage.setItem("name", name);

// -- elements ------------------------------------------------------------------------------------------

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// Process ids in a row get hues that are far apart.
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
  if (!item.classList.contains("note")) document.getElementById("empty").hidden = true;
  list.append(item);
  if (follow) toBottom();
}

// -- what is said --------------------------------------------------------------------------------------------

const shown = new Set();
const mine = new Set();
let lastSaid = null;

function line(said, own) {
  const item = make("li", own ? "own" : "");
  const bubble = make("div", "bubble", said.text);
  const meta = make("div", "meta");
  if (said.delivered_by) {
    const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    meta.append(make("time", "", time), worker(said.pid), make("span", "arrow", "→"), worker(said.delivered_by));
    meta.title = `Came in through process ${said.pid}, delivered to you by process ${said.delivered_by}`;
  } else {
    meta.append("sending…");
  }
  // Several messages in a row by the same sender show name and avatar once.
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
  if (down) note("Reconnected to ", worker(detail.pid, "worker "));
  down = false;
  me = detail.id;
  main.dataset.pid = detail.pid;
  main.dataset.welcomes = 1 + Number(main.dataset.welcomes ?? 0);
  show("open", make("span", "by", "served by "), worker(detail.pid, "worker "));
});

connection.addEventListener("lost", () => {
  if (!down) note("Connection lost");
  down = true;
  show("lost", "reconnecting…");
});

connection.addEventListener("said", ({ detail: said }) => {
  if (said.id && shown.has(said.id)) return; // sent again after a loss, although it had arrived
  shown.add(said.id);
  const own = mine.delete(said.id);
  [...pending.children].find((item) => item.dataset.id === said.id)?.remove();
  append(log, line(said, own));
  lastSaid = said;
  if (own) toBottom();
});

connection.addEventListener("refused", ({ detail }) => note(detail.why));

// -- who is here ---------------------------------------------------------------------------------------------

const here = document.getElementById("here");
const blocks = new Map(); // process id -> its block

connection.addEventListener("here", ({ detail: { visitors, processes } }) => {
  // Only what has changed is replaced, so that a focused button keeps the focus.
  for (const [pid, block] of blocks) {
    if (processes.some((each) => each.pid === pid)) continue;
    block.remove();
    blocks.delete(pid);
  }
  processes.forEach(({ pid, kind }, place) => {
    const block = blocks.get(pid) ?? newBlock(pid, kind);
    blocks.set(pid, block);
    if (kind === "worker") fill(block, visitors.filter((each) => each.pid === pid));
    if (here.children[place] !== block) here.insertBefore(block, here.children[place] ?? null);
  });
  document.getElementById("count").textContent = visitors.length === 1 ? "1 visitor" : `${visitors.length} visitors`;
});

function newBlock(pid, kind) {
  const command = `kill -9 ${pid}`;
  const kill = make("button", "copy", command);
  kill.type = "button";
  kill.title = "Copy this command, run it in a shell, and see what happens";
  kill.addEventListener("click", () => copy(kill, command));
  const bot = make("p", "", avatar("Dice", "bot"), make("span", "", "Dice"), make("em", "", "/roll"));
  const block = make("div", "process", make("div", "head", worker(pid, `${kind} `), kill), bot);
  block.style.setProperty("--hue", hueOfPid(pid));
  Object.assign(block.dataset, { pid, kind, idle: false });
  return block;
}

function fill(block, people) {
  const shown = JSON.stringify([people, me]);
  if (block.dataset.shown === shown) return;
  const idle = make("p", "", make("em", "", "idle in this room"));
  block.lastElementChild.replaceWith(people.length ? make("ul", "", ...people.map(person)) : idle);
  Object.assign(block.dataset, { shown, idle: !people.length });
}

function person({ id, name, pid }) {
  const item = make("li", "", avatar(name), make("span", "", name));
  if (id === me) item.append(make("em", "", "you"));
  Object.assign(item.dataset, { visitor: id, name, pid });
  return item;
}

// -- commands to copy ----------------------------------------------------------------------------------------

const command = document.getElementById("command");
document.getElementById("copy").addEventListener("click", ({ currentTarget }) => {
  copy(currentTarget, command.textContent, command);
});

async function copy(button, words, shownIn = button) {
  button.dataset.label ??= button.textContent;
  try {
    await navigator.clipboard.writeText(words);
  } catch {
    getSelection().selectAllChildren(shownIn); // the browser gives no clipboard: select it, to be copied by hand
    return;
  }
  button.textContent = "copied";
  document.getElementById("announced").textContent = `Copied: ${words}`;
  setTimeout(() => {
    button.textContent = button.dataset.label;
    document.getElementById("announced").textContent = "";
  }, 1200);
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
