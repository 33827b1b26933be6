// The WebSocket to this sandbox. When it breaks, the hypervisor is asked why; asking again slows down, and never starts
// anything.
const FIRST_WAIT = 500;
const LONGEST_WAIT = 30000;

export class Connection extends EventTarget {
  #socket = null;
  #wait = FIRST_WAIT;

  open() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/prompt`);
    this.#socket = socket;
    socket.addEventListener("open", async () => {
      this.#wait = FIRST_WAIT;
      this.#tell({ up: true, words: "Connected" });
      this.#tell({ up: true, words: "Connected", state: await state() });
    });
    socket.addEventListener("message", (event) => this.dispatchEvent(new CustomEvent("said", { detail: JSON.parse(event.data) })));
    socket.addEventListener("close", () => this.#lost());
  }

  send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  async #lost() {
    const now = await state();
    if (now?.signedOut) {
      this.#tell({ up: false, words: "Signed out", message: "You are signed out.", state: now });
      return;
    }
    const message = now && now.state !== "ready" ? `${now.message} ${now.hint}`.trim() : now ? "" : "Choir does not answer. Trying again…";
    this.#tell({ up: false, words: now && now.state !== "ready" ? `Sandbox ${now.state}` : "Connecting again", message, state: now });
    const wait = this.#wait * (0.75 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    setTimeout(() => this.open(), wait);
  }

  #tell(detail) {
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }
}

async function state() {
  try {
    const answer = await fetch("/.choir/state");
    if (answer.status === 401) return { signedOut: true };
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}
