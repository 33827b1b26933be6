// The Prompt window: what was said, what is being said, and what to say next.
import { render } from "./render.js";

const NOTES = { stopped: "Stopped." };

export class Prompt {
  #connection;
  #messages = new Map();
  #busy = false;
  #up = false;
  #talk = document.querySelector("#talk");
  #empty = document.querySelector("#empty");
  #text = document.querySelector("#text");
  #send = document.querySelector("#send");
  #stop = document.querySelector("#stop");
  #clear = document.querySelector("#clear");

  constructor(connection) {
    this.#connection = connection;
    connection.addEventListener("said", ({ detail }) => this.#hear(detail));
    connection.addEventListener("state", ({ detail }) => {
      this.#up = detail.up;
      this.#show();
    });
    document.querySelector("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.#text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#ask();
      }
    });
    this.#text.addEventListener("input", () => {
      if (this.#text.value.length === 1) this.#connection.send({ type: "warm" });
      this.#show();
    });
    this.#stop.addEventListener("click", () => this.#connection.send({ type: "stop" }));
    this.#clear.addEventListener("click", () => this.#connection.send({ type: "clear" }));
    this.#show();
  }

  #ask() {
    const text = this.#text.value.trim();
    if (!text || this.#busy || !this.#connection.send({ type: "prompt", text })) return;
    this.#text.value = "";
    this.#show();
  }

  #hear(event) {
    switch (event.type) {
      case "history":
        this.#forget();
        for (const message of event.messages) this.#add(message);
        this.#busy = event.busy;
        this.#talk.scrollTop = this.#talk.scrollHeight;
        break;
      case "message":
        this.#add(event.message);
        if (event.message.state === "running") this.#busy = true;
        this.#talk.scrollTop = this.#talk.scrollHeight;
        break;
      case "token":
        this.#change(event.id, (message) => { message.text += event.text; });
        break;
      case "end":
        this.#change(event.id, (message) => { message.state = event.state; message.note = event.note; });
        this.#busy = false;
        break;
      case "cleared":
        this.#forget();
        this.#busy = false;
        break;
      case "refused":
        this.#add({ id: `refused-${Date.now()}`, role: "assistant", text: "", state: "failed", note: event.note });
        break;
    }
    this.#show();
  }

  #forget() {
    for (const { element } of this.#messages.values()) element.remove();
    this.#messages.clear();
  }

  #add(message) {
    const element = document.createElement("article");
    element.setAttribute("aria-label", message.role === "user" ? "You" : "Agent");
    this.#messages.set(message.id, { message, element });
    this.#talk.append(element);
    this.#draw(message, element);
  }

  #change(id, how) {
    const entry = this.#messages.get(id);
    if (!entry) return;
    const atEnd = this.#talk.scrollHeight - this.#talk.scrollTop - this.#talk.clientHeight < 80;
    how(entry.message);
    this.#draw(entry.message, entry.element);
    if (atEnd) this.#talk.scrollTop = this.#talk.scrollHeight;
  }

  #draw(message, element) {
    element.className = `said ${message.role} ${message.state}`;
    const words = document.createElement("div");
    words.className = "words";
    words.append(...render(message.text));
    const note = message.note || NOTES[message.state];
    element.replaceChildren(words, ...(note ? [Object.assign(document.createElement("p"), { className: "note", textContent: note })] : []));
  }

  #show() {
    this.#empty.hidden = this.#messages.size > 0;
    this.#clear.hidden = this.#messages.size === 0;
    this.#stop.hidden = !this.#busy;
    this.#send.hidden = this.#busy;
    this.#send.disabled = !this.#up || !this.#text.value.trim();
  }
}
