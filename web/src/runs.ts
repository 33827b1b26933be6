// What was said and done, from the run events (`choir.sandbox.agent.events`). They come in bursts: each frame shows what
// came since the last.
import { batch, computed, type Signal, signal } from "@preact/signals";
import { type Message, on } from "./connection";

export type Part =
  | { kind: "text"; text: string }
  | {
      kind: "tool";
      call: string;
      tool: string;
      input: unknown;
      output: string;
      ok: boolean | null;
      seconds: number | null;
    };

export interface Run {
  id: string;
  prompt: string;
  model: string;
  parts: Signal<Part[]>;
  /** "running", "done", "stopped" or "failed". */
  state: Signal<string>;
  note: Signal<string>;
}

export const runs = signal<Run[]>([]);
/** What a person can choose from, the default first. */
export const models = signal<{ model: string; tools: boolean }[]>([]);
/** Whether the past has been told. */
export const caughtUp = signal(false);
export const running = computed(() => runs.value.findLast((run) => run.state.value === "running") ?? null);
export const refused = signal("");

let waiting: Message[] = [];

on("hello", (message) => {
  models.value = message.models;
  waiting = [];
  runs.value = [];
  caughtUp.value = false;
});
on("refused", ({ note }) => {
  refused.value = note;
});
on("runs", later);
on("now", later);

function later(message: Message): void {
  if (waiting.push(message) > 1) return;
  if (document.hidden) setTimeout(flush, 200);
  else requestAnimationFrame(flush);
}

function flush(): void {
  const events = waiting;
  waiting = [];
  batch(() => {
    for (const each of events) {
      if (each.type === "now") caughtUp.value = true;
      else for (const { kind, data } of each.events) take(kind, data);
    }
  });
}

// biome-ignore lint/suspicious/noExplicitAny: what it holds depends on its kind
function take(kind: string, data: any): void {
  if (kind === "conversation_cleared") {
    runs.value = [];
    return;
  }
  if (kind === "run_started") {
    const { run: id, prompt, model } = data;
    const note = data.without_memory ? `Answered without memory. ${data.without_memory}` : "";
    const started: Run = { id, prompt, model, parts: signal([]), state: signal("running"), note: signal(note) };
    runs.value = [...runs.value, started];
    refused.value = "";
    return;
  }
  const run = runs.value.findLast((each) => each.id === data.run);
  if (!run) return;
  const parts = run.parts.value;
  const last = parts.at(-1);
  switch (kind) {
    case "run_text":
      run.parts.value =
        last?.kind === "text"
          ? [...parts.slice(0, -1), { kind: "text", text: last.text + data.text }]
          : [...parts, { kind: "text", text: data.text }];
      break;
    case "tool_call":
      run.parts.value = [
        ...parts,
        { kind: "tool", call: data.call, tool: data.tool, input: data.arguments, output: "", ok: null, seconds: null },
      ];
      break;
    case "tool_output":
      change(run, data.call, (tool) => ({ ...tool, output: tool.output + data.text }));
      break;
    case "tool_result":
      change(run, data.call, (tool) => ({
        ...tool,
        ok: data.ok,
        output: tool.output || data.text,
        seconds: data.seconds,
      }));
      break;
    case "run_finished":
      run.state.value = "done";
      break;
    case "run_failed":
      run.note.value = data.message;
      run.state.value = "failed";
      break;
    case "run_stopped":
      run.note.value = data.by === "restart" ? "Stopped when the sandbox ended." : "Stopped.";
      run.state.value = "stopped";
      break;
  }
}

type Tool = Extract<Part, { kind: "tool" }>;

function change(run: Run, call: string, how: (tool: Tool) => Tool): void {
  run.parts.value = run.parts.value.map((part) => (part.kind === "tool" && part.call === call ? how(part) : part));
}
