// The one WebSocket of this page. When it breaks, the hypervisor is asked why; asking again slows down, and never starts
// anything.
import { signal } from "@preact/signals";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 30_000;

export interface SandboxState {
  user: string;
  role: string;
  state: string;
  message: string;
  hint: string;
  control: string;
  signedOut?: true;
}

export interface Message {
  type: string;
  // biome-ignore lint/suspicious/noExplicitAny: what a message holds depends on its type
  [field: string]: any;
}

type Hear = (message: Message) => void;

export const up = signal(false);
export const words = signal("Connecting");
export const notice = signal("");
export const sandbox = signal<SandboxState | null>(null);

const listeners = new Map<string, Set<Hear>>();
let socket: WebSocket | null = null;
let wait = FIRST_WAIT;

export function socketUrl(path: string): string {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
}

/** Calls `hear` with every message of that type; returns what ends that. */
export function on(type: string, hear: Hear): () => void {
  const hearing = listeners.get(type) ?? new Set();
  listeners.set(type, hearing.add(hear));
  return () => hearing.delete(hear);
}

export function send(message: Message): boolean {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

export function open(): void {
  socket = new WebSocket(socketUrl("/api/desktop"));
  socket.addEventListener("open", async () => {
    wait = FIRST_WAIT;
    up.value = true;
    words.value = "Connected";
    notice.value = "";
    sandbox.value = (await ask()) ?? sandbox.value;
  });
  socket.addEventListener("message", (event) => {
    const message: Message = JSON.parse(event.data);
    for (const hear of listeners.get(message.type) ?? []) hear(message);
  });
  socket.addEventListener("close", lost);
}

async function lost(): Promise<void> {
  up.value = false;
  const now = await ask();
  if (now?.signedOut) {
    words.value = "Signed out";
    notice.value = "You are signed out.";
    return;
  }
  if (now) sandbox.value = now;
  const ended = now !== null && now.state !== "ready";
  words.value = ended ? `Sandbox ${now.state}` : "Connecting again";
  notice.value = ended ? `${now.message} ${now.hint}`.trim() : now ? "" : "Choir does not answer. Trying again…";
  setTimeout(open, wait * (0.75 + Math.random() / 2));
  wait = Math.min(wait * 2, LONGEST_WAIT);
}

async function ask(): Promise<SandboxState | null> {
  try {
    const answer = await fetch("/.choir/state");
    if (answer.status === 401)
      return { user: "", role: "", state: "", message: "", hint: "", control: "", signedOut: true };
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}
