// What was said, what is being said and done, and what to say next.
import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { send, up } from "./connection";
import { Icon } from "./icons";
import { Markdown } from "./markdown";
import { caughtUp, models, type Part, type Run, refused, running, runs } from "./runs";

const NEAR_THE_END = 80;
const MODEL = "choir-model";
const LONGEST = 200_000; // as `choir.sandbox.agent.service` has it

export function Prompt() {
  const talk = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  useSignalEffect(() => {
    // Everything that makes it longer.
    for (const run of runs.value) [run.parts.value, run.note.value];
    void refused.value;
    requestAnimationFrame(() => {
      if (talk.current && following.current) talk.current.scrollTop = talk.current.scrollHeight;
    });
  });
  const scrolled = () => {
    const { scrollHeight, scrollTop, clientHeight } = talk.current!;
    following.current = scrollHeight - scrollTop - clientHeight < NEAR_THE_END;
  };
  return (
    <>
      <div class="talk" ref={talk} role="log" aria-label="Conversation" tabIndex={0} onScroll={scrolled}>
        {caughtUp.value && runs.value.length === 0 && (
          <div class="empty">
            <h3>What shall we do?</h3>
            <p>
              The agent works inside your own sandbox. It has no key and no network; its model calls go through the
              gateway, and each one is listed under Activity.
            </p>
          </div>
        )}
        {runs.value.map((run) => (
          <Exchange key={run.id} run={run} />
        ))}
        {refused.value && (
          <p class="note refused" role="alert">
            {refused}
          </p>
        )}
      </div>
      <Composer asked={() => (following.current = true)} />
    </>
  );
}

function Exchange({ run }: { run: Run }) {
  const state = run.state.value;
  return (
    <>
      <article class="said user" aria-label="You">
        <p>{run.prompt}</p>
      </article>
      <article class={`said assistant ${state}`} aria-label="Agent" aria-busy={state === "running"}>
        {run.parts.value.map((part, index) =>
          part.kind === "text" ? (
            <div class="words" key={index}>
              <Markdown text={part.text} />
            </div>
          ) : (
            <Tool key={part.call} part={part} />
          ),
        )}
        {state === "running" && <span class="cursor" role="img" aria-label="The agent is working" />}
        {run.note.value && <p class="note">{run.note}</p>}
      </article>
    </>
  );
}

function Tool({ part }: { part: Extract<Part, { kind: "tool" }> }) {
  const state = part.ok === null ? "running" : part.ok ? "ok" : "failed";
  const output = useRef<HTMLPreElement>(null);
  useEffect(() => {
    if (output.current) output.current.scrollTop = output.current.scrollHeight;
  }, [part.output]);
  return (
    <details class={`tool ${state}`} open={state === "running" || undefined}>
      <summary>
        <Icon name="tool" />
        <b>{part.tool}</b>
        <code>{brief(part.input)}</code>
        <span class="state">{state === "running" ? "running" : state === "ok" ? took(part.seconds) : "failed"}</span>
      </summary>
      {brief(part.input).includes("…") && <pre>{JSON.stringify(part.input, null, 2)}</pre>}
      {part.output && (
        <pre ref={output} tabIndex={0} role="group" aria-label={`Output of ${part.tool}`}>
          {part.output}
        </pre>
      )}
    </details>
  );
}

function brief(input: unknown): string {
  const values = input && typeof input === "object" ? Object.values(input) : [input];
  const text = values.map((value) => (typeof value === "string" ? value : JSON.stringify(value))).join(" ");
  return text.length > 160 || text.includes("\n") ? `${text.split("\n")[0]!.slice(0, 160)}…` : text;
}

const took = (seconds: number | null) =>
  seconds === null ? "done" : `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;

function Composer({ asked }: { asked: () => void }) {
  const text = useSignal("");
  const chosen = useSignal(localStorage.getItem(MODEL) ?? "");
  const names = models.value.map((each) => each.model);
  const model = names.includes(chosen.value) ? chosen.value : (names[0] ?? "");
  const busy = running.value !== null;
  const sent = useRef("");
  useSignalEffect(() => {
    if (running.value) sent.current = "";
    else if (refused.value && sent.current && !text.peek()) text.value = sent.current; // nothing typed is lost
  });
  const ask = () => {
    const asks = text.value.trim();
    if (!asks || busy) return;
    if (asks.length > LONGEST) {
      refused.value = `That is longer than ${LONGEST.toLocaleString()} characters.`;
      asked();
      return;
    }
    if (!send({ type: "prompt", text: asks, model })) return;
    sent.current = asks;
    text.value = "";
    refused.value = "";
    asked();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        ask();
      }}
    >
      <textarea
        data-focus
        rows={1}
        aria-label="Your prompt"
        placeholder="Ask something"
        autocomplete="off"
        value={text}
        onInput={(event) => {
          if (!text.value) send({ type: "warm", model });
          text.value = event.currentTarget.value;
        }}
        onKeyDown={(event) => {
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            ask();
          } else if (event.key === "ArrowUp" && !text.value && runs.value.length) {
            event.preventDefault();
            text.value = runs.value.at(-1)!.prompt;
          }
        }}
      />
      <div class="tools">
        {names.length > 1 ? (
          <select
            class="model"
            aria-label="Model"
            value={model}
            onChange={(event) => {
              chosen.value = event.currentTarget.value;
              localStorage.setItem(MODEL, chosen.value);
            }}
          >
            {names.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        ) : (
          <span class="model">{model}</span>
        )}
        <span class="gap" />
        {runs.value.length > 0 && (
          <button type="button" class="plain" onClick={() => send({ type: "clear" })}>
            Clear
          </button>
        )}
        {busy ? (
          <button type="button" class="send stop" aria-label="Stop" onClick={() => send({ type: "stop" })}>
            <Icon name="stop" />
          </button>
        ) : (
          <button type="submit" class="send" aria-label="Send" disabled={!up.value || !text.value.trim()}>
            <Icon name="send" />
          </button>
        )}
      </div>
    </form>
  );
}
