// A WebSocket that reconnects: at once when the server process at its other end dies, then less and less often. It
// sends again what the room has not confirmed.

const LONGEST_WAIT = 4000;

export class Connection extends EventTarget {
  #socket = null;
  #tries = 0;
  #timer = null;
  #unconfirmed = new Map(); // id -> frame: sent, but not yet received back from the room

  constructor(url) {
    super();
    this.url = url;
    this.#connect();
    // Do not wait any longer when the network is back, or when the page is looked at again.
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
    // A visitor who goes to another page leaves the room, even if the browser keeps this page for the way back.
    addEventListener("pagehide", () => this.#socket.close());
  }

  say(id, text) {
    const frame = JSON.stringify({ id, text });
    this.#unconfirmed.set(id, frame);
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(frame);
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const socket = (this.#socket = new WebSocket(this.url));
    socket.addEventListener("message", (event) => this.#receive(JSON.parse(event.data)));
    socket.addEventListener("close", () => socket === this.#socket && this.#lost());
  }

  #receive(frame) {
    if (frame.type === "welcome") {
      this.#tries = 0;
      for (const unconfirmed of this.#unconfirmed.values()) this.#socket.send(unconfirmed);
    }
    if (frame.type === "said") this.#unconfirmed.delete(frame.id);
    this.dispatchEvent(new CustomEvent(frame.type, { detail: frame }));
  }

  #lost() {
    const wait = this.#tries === 0 ? 0 : Math.min(LONGEST_WAIT, 125 * 2 ** this.#tries) * (0.5 + Math.random() / 2);
    this.#tries += 1;
    this.dispatchEvent(new CustomEvent("lost"));
    this.#timer = setTimeout(() => this.#connect(), wait);
  }

  #hurry() {
    if (this.#timer) this.#connect();
  }
}
