// A WebSocket that comes back: when the server process at its other end dies, it connects again at once, then less and
// less often, and sends again what nobody has heard of.

const LONGEST_WAIT = 4000;

export class Connection extends EventTarget {
  #socket = null;
  #tries = 0;
  #unheard = new Map(); // id -> frame: said here, but not yet come back from the room

  constructor(url) {
    super();
    this.url = url;
    this.#connect();
    // No need to wait any longer when there is a network again, or somebody looks.
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
    // Whoever goes to another page has left the room, even if the browser keeps this one for the way back.
    addEventListener("pagehide", () => this.#socket.close());
  }

  say(id, text) {
    const frame = JSON.stringify({ id, text });
    this.#unheard.set(id, frame);
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(frame);
  }

  #connect() {
    clearTimeout(this.timer);
    this.timer = null;
    const socket = (this.#socket = new WebSocket(this.url));
    socket.addEventListener("message", (event) => this.#hear(JSON.parse(event.data)));
    socket.addEventListener("close", () => socket === this.#socket && this.#lost());
  }

  #hear(frame) {
    if (frame.type === "welcome") {
      this.#tries = 0;
      for (const unheard of this.#unheard.values()) this.#socket.send(unheard);
    }
    if (frame.type === "said") this.#unheard.delete(frame.id);
    this.dispatchEvent(new CustomEvent(frame.type, { detail: frame }));
  }

  #lost() {
    const wait = this.#tries === 0 ? 0 : Math.min(LONGEST_WAIT, 125 * 2 ** this.#tries) * (0.5 + Math.random() / 2);
    this.#tries += 1;
    this.dispatchEvent(new CustomEvent("lost"));
    this.timer = setTimeout(() => this.#connect(), wait);
  }

  #hurry() {
    if (this.timer) this.#connect();
  }
}
