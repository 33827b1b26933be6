// The windows as the sandbox keeps them. A change is shown at once and sent; what the sandbox says is what counts.
import { computed, signal } from "@preact/signals";
import { on, send } from "./connection";

export const WHOLE = 10_000;
export type App = "prompt" | "terminal" | "files" | "memory" | "activity";

export interface Place {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface WindowState extends Place {
  id: string;
  app: App;
  minimised: boolean;
  maximised: boolean;
}

/** From the bottom to the top; null until the sandbox has said. */
export const layout = signal<WindowState[] | null>(null);
export const top = computed(() => layout.value?.findLast((each) => !each.minimised) ?? null);

let opening: App | null = null;
let told: WindowState[] | null = null;
let underWay = 0;

// What the sandbox says is older than what was done here meanwhile, until it has answered all of that.
on("hello", () => {
  underWay = 0;
});
on("layout", ({ windows }) => {
  told = windows;
  adopt();
});
on("done", () => {
  underWay = Math.max(underWay - 1, 0);
  adopt();
});

function adopt(): void {
  if (underWay || !told) return;
  layout.value = told;
  if (opening !== null && top.value?.app === opening) {
    opening = null;
    wantFocus();
  }
}

function command(what: object): void {
  if (send({ type: "window", ...what })) underWay += 1;
}

/** Counts up when a window should get the focus, whichever is on top then. */
export const focusWanted = signal(0);

export function wantFocus(): void {
  focusWanted.value += 1;
}

function show(id: string, change: Partial<WindowState>, end: "top" | "bottom" = "top"): void {
  const windows = layout.value ?? [];
  const window = windows.find((each) => each.id === id);
  if (!window) return;
  const others = windows.filter((each) => each !== window);
  const after = { ...window, ...change };
  layout.value = end === "top" ? [...others, after] : [after, ...others];
}

export function openApp(app: App): void {
  opening = app;
  command({ op: "open", app });
}

export function close(id: string): void {
  layout.value = (layout.value ?? []).filter((each) => each.id !== id);
  command({ op: "close", id });
  wantFocus();
}

export function raise(id: string): void {
  if (top.value?.id === id) return;
  show(id, { minimised: false });
  command({ op: "raise", id });
}

export function minimise(id: string): void {
  show(id, { minimised: true }, "bottom");
  command({ op: "minimise", id });
  wantFocus();
}

export function toggleMaximised(window: WindowState): void {
  const op = window.maximised ? "restore" : "maximise";
  show(window.id, { minimised: false, maximised: !window.maximised });
  command({ op, id: window.id });
}

export function place(id: string, where: Place): void {
  show(id, { ...where, minimised: false, maximised: false });
  command({ op: "place", id, ...where });
}

export function tidy(): void {
  command({ op: "tidy" });
}

/** The next window from the top one, around. */
export function cycle(backwards: boolean): void {
  const shown = (layout.value ?? []).filter((each) => !each.minimised);
  const next = backwards ? shown.at(-2) : shown[0];
  if (!next) return;
  raise(next.id);
  wantFocus();
}

const MARGIN = 500;
const SMALLEST = 1_000;

/** `where` brought back to what the sandbox accepts (`choir.sandbox.windows`). */
export function within(where: Place): Place {
  const clamp = (value: number, low: number, high: number) => Math.round(Math.min(Math.max(value, low), high));
  const width = clamp(where.width, SMALLEST, WHOLE);
  return {
    x: clamp(where.x, MARGIN - width, WHOLE - MARGIN),
    y: clamp(where.y, 0, WHOLE - MARGIN),
    width,
    height: clamp(where.height, SMALLEST, WHOLE),
  };
}
