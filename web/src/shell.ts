// One shell of the sandbox in xterm.js: its WebSocket (`choir.sandbox.terminals`), its size and its colours. Not loaded
// before a terminal is opened.
import { FitAddon } from "@xterm/addon-fit";
import { type ITheme, Terminal } from "@xterm/xterm";
import { socketUrl, up } from "./connection";
import { allowStyles } from "./strict-document";

const SEEN_EVERY = 32 * 1024;
const SCROLLBACK = 5000;
const GONE = 4404;
const PIECE = 64 * 1024; // a message may hold no more than 1 MB

type Tell = (words: string, over: boolean) => void;

export class Shell {
  readonly #terminal: Terminal;
  readonly #fit = new FitAddon();
  readonly #dark = matchMedia("(prefers-color-scheme: dark)");
  readonly #watch: ResizeObserver;
  #socket: WebSocket | null = null;
  #replaying = 0;
  #drawn = 0;
  #following = false;
  #disposed = false;

  constructor(
    readonly place: HTMLElement,
    readonly id: string,
    aloud: boolean,
    readonly tell: Tell,
  ) {
    allowStyles();
    this.#terminal = new Terminal({
      fontFamily: getComputedStyle(place).getPropertyValue("--mono") || "monospace",
      fontSize: 13.5,
      lineHeight: 1.2,
      cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
      scrollback: SCROLLBACK,
      screenReaderMode: aloud,
      minimumContrastRatio: 4.5,
      theme: this.#theme(),
    });
    this.#terminal.loadAddon(this.#fit);
    this.#terminal.open(place);
    this.#terminal.textarea?.setAttribute("data-focus", "");
    this.#terminal.textarea?.setAttribute("aria-label", "Terminal");
    this.#terminal.attachCustomKeyEventHandler((event) => this.#key(event));
    const encoder = new TextEncoder();
    this.#terminal.onData((data) => this.#type(encoder.encode(data)));
    this.#terminal.onBinary((data) => this.#type(Uint8Array.from(data, (each) => each.charCodeAt(0))));
    this.#terminal.onResize(() => this.#tellSize());
    this.#watch = new ResizeObserver(() => requestAnimationFrame(() => this.fit()));
    this.#watch.observe(place);
    this.#dark.addEventListener("change", this.#recolour);
    if (place.closest(".window.top") && !document.activeElement?.matches("input, textarea")) this.#terminal.focus();
    this.connect();
  }

  connect(): void {
    if (this.#disposed || (this.#socket && this.#socket.readyState <= WebSocket.OPEN)) return;
    const socket = new WebSocket(socketUrl(`/api/terminal/${this.id}`));
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => {
      if (typeof data === "string") this.#hear(JSON.parse(data));
      else this.#show(new Uint8Array(data));
    });
    socket.addEventListener("close", ({ code }) => {
      if (this.#disposed || code === GONE) return;
      this.tell("Not connected", false);
      // The desktop's own connection says when it is back; this is for when only this one broke.
      setTimeout(() => up.peek() && this.connect(), 1000 + Math.random() * 1000);
    });
  }

  /** As many columns and rows as there is room for. */
  fit(): void {
    if (!this.place.clientHeight || this.#disposed) return;
    this.#following = false;
    this.#fit.fit();
    this.#tellSize();
  }

  again(): void {
    this.#send({ type: "again" });
  }

  readAloud(wanted: boolean): void {
    this.#terminal.options.screenReaderMode = wanted;
  }

  dispose(): void {
    this.#disposed = true;
    this.#watch.disconnect();
    this.#dark.removeEventListener("change", this.#recolour);
    this.#socket?.close();
    this.#terminal.dispose();
  }

  // biome-ignore lint/suspicious/noExplicitAny: what a message holds depends on its type
  #hear(message: any): void {
    switch (message.type) {
      case "hello":
        this.#terminal.reset();
        this.#replaying = message.replay;
        this.tell("", false);
        this.fit();
        break;
      case "size":
        this.#following = true; // another page's window decides now
        this.#terminal.resize(message.columns, message.rows);
        break;
      case "exit":
        this.tell(message.code === 0 ? "The shell has ended." : `The shell has ended (${message.code}).`, true);
        break;
      case "refused":
        this.tell(message.note, false);
        break;
    }
  }

  #show(data: Uint8Array): void {
    this.#terminal.write(data, () => {
      this.#replaying = Math.max(0, this.#replaying - data.length);
      this.#drawn += data.length;
      if (this.#drawn < SEEN_EVERY) return;
      this.#send({ type: "seen", bytes: this.#drawn });
      this.#drawn = 0;
    });
  }

  #type(data: Uint8Array<ArrayBuffer>): void {
    // What is shown again may hold questions to the terminal; they were answered the first time.
    if (this.#replaying !== 0 || this.#socket?.readyState !== WebSocket.OPEN) return;
    for (let at = 0; at < data.length; at += PIECE) this.#socket.send(data.subarray(at, at + PIECE));
  }

  #tellSize(): void {
    if (!this.#following) this.#send({ type: "resize", columns: this.#terminal.cols, rows: this.#terminal.rows });
  }

  #send(message: object): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #key(event: KeyboardEvent): boolean {
    if (event.key === "F6") return false; // goes to the next window
    if (event.ctrlKey && event.shiftKey && event.code === "KeyC") {
      if (event.type === "keydown") {
        navigator.clipboard?.writeText(this.#terminal.getSelection());
        event.preventDefault();
      }
      return false;
    }
    return !(event.ctrlKey && event.shiftKey && event.code === "KeyV"); // the browser pastes
  }

  readonly #recolour = () => {
    this.#terminal.options.theme = this.#theme();
  };

  #theme(): ITheme {
    const style = getComputedStyle(this.place);
    const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
    return {
      background: colour("screen"),
      foreground: colour("ink"),
      cursor: colour("accent"),
      cursorAccent: colour("screen"),
      selectionBackground: colour("selection"),
      ...(this.#dark.matches ? DARK : LIGHT),
    };
  }
}

const DARK: ITheme = {
  black: "#2b2f3e", red: "#ff8f86", green: "#7fd6ae", yellow: "#e8c477", blue: "#a3aaff", magenta: "#dca3e8", cyan: "#7fd0e0", white: "#d5d8e4",
  brightBlack: "#7c8397", brightRed: "#ffada6", brightGreen: "#9fe5c4", brightYellow: "#f3d898", brightBlue: "#c2c7ff", brightMagenta: "#ecc0f4", brightCyan: "#a5e2ee", brightWhite: "#ffffff",
}; // biome-ignore format: a table
const LIGHT: ITheme = {
  black: "#1c2130", red: "#b23a32", green: "#1f7a58", yellow: "#8a6212", blue: "#444bc4", magenta: "#8d3a9e", cyan: "#1c6f84", white: "#8b8f9c",
  brightBlack: "#5b6274", brightRed: "#c9493f", brightGreen: "#268c66", brightYellow: "#9b7117", brightBlue: "#5a61d6", brightMagenta: "#a04bb2", brightCyan: "#248199", brightWhite: "#3a4052",
}; // biome-ignore format: a table
