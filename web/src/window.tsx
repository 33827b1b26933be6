// One window: its frame, and moving and resizing it by pointer and keys.
import { useSignal } from "@preact/signals";
import type { FunctionComponent } from "preact";
import { useRef } from "preact/hooks";
import { Activity } from "./activity";
import { APPS } from "./desktop";
import { Files } from "./files";
import { Icon } from "./icons";
import {
  type App,
  close,
  minimise,
  openApp,
  type Place,
  place,
  raise,
  toggleMaximised,
  top,
  WHOLE,
  type WindowState,
  within,
} from "./layout";
import { Memory } from "./memory";
import { Prompt } from "./prompt";
import { TerminalApp } from "./terminal";

export const GRIP_HELP = "grip-help";
const STEP = 200;
const BODIES: Record<App, FunctionComponent<{ id: string }>> = {
  prompt: Prompt,
  terminal: TerminalApp,
  files: Files,
  memory: Memory,
  activity: Activity,
};
const KEYS: Record<string, [number, number]> = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};

export function Frame({ window, level }: { window: WindowState; level: number }) {
  const { id, app } = window;
  const frame = useRef<HTMLElement>(null);
  const dragged = useSignal<Place | null>(null);
  const number = id.slice(app.length + 1);
  const title = number && number !== "1" ? `${APPS[app]} ${number}` : APPS[app];
  const Body = BODIES[app];

  const drag = (event: PointerEvent, change: (dx: number, dy: number) => Place) => {
    const desk = frame.current?.parentElement;
    if (event.button !== 0 || !desk) return;
    const target = event.currentTarget as HTMLElement;
    const [x, y] = [event.clientX, event.clientY];
    const { width, height } = desk.getBoundingClientRect();
    target.setPointerCapture(event.pointerId);
    const move = (now: PointerEvent) => {
      const [dx, dy] = [now.clientX - x, now.clientY - y];
      if (!dragged.value && Math.hypot(dx, dy) < 4) return; // a click
      dragged.value = within(change((dx / width) * WHOLE, (dy / height) * WHOLE));
    };
    const end = () => {
      target.removeEventListener("pointermove", move);
      target.removeEventListener("lostpointercapture", end);
      if (dragged.value) place(id, dragged.value);
      dragged.value = null;
    };
    target.addEventListener("pointermove", move);
    target.addEventListener("lostpointercapture", end);
  };
  const here = (): Place => {
    const { x, y, width, height } = window;
    return window.maximised ? { x: 0, y: 0, width: WHOLE, height: WHOLE } : { x, y, width, height };
  };
  const move = (event: PointerEvent) => {
    if ((event.target as Element).closest("button:not(.grip)")) return;
    const from = here();
    drag(event, (dx, dy) =>
      window.maximised
        ? { x: from.x + dx + WHOLE / 8, y: from.y + dy, width: (WHOLE * 3) / 4, height: (WHOLE * 3) / 4 }
        : { ...from, x: from.x + dx, y: from.y + dy },
    );
  };
  const resize = (edges: string) => (event: PointerEvent) => {
    const from = here();
    drag(event, (dx, dy) => ({
      x: edges.includes("w") ? from.x + dx : from.x,
      y: edges.includes("n") ? from.y + dy : from.y,
      width: from.width + (edges.includes("e") ? dx : edges.includes("w") ? -dx : 0),
      height: from.height + (edges.includes("s") ? dy : edges.includes("n") ? -dy : 0),
    }));
  };
  const key = (event: KeyboardEvent) => {
    const step = KEYS[event.key];
    if (!step) return;
    event.preventDefault();
    const from = here();
    const [dx, dy] = step;
    const moved = event.shiftKey
      ? { ...from, width: from.width + dx, height: from.height + dy }
      : { ...from, x: from.x + dx, y: from.y + dy };
    place(id, within(moved));
  };

  const where = dragged.value ?? here();
  const percent = (part: number) => `${part / (WHOLE / 100)}%`;
  const names = ["window", app];
  if (top.value?.id === id) names.push("top");
  if (window.minimised) names.push("minimised");
  if (window.maximised && !dragged.value) names.push("maximised");
  if (dragged.value) names.push("dragged");
  return (
    <section
      ref={frame}
      class={names.join(" ")}
      data-window={id}
      aria-labelledby={`title-${id}`}
      style={{
        left: percent(where.x),
        top: percent(where.y),
        width: percent(where.width),
        height: percent(where.height),
        zIndex: level + 1,
      }}
      onPointerDownCapture={() => raise(id)}
      onFocusIn={() => raise(id)}
    >
      {/* biome-ignore lint/a11y/noStaticElementInteractions: what it does by pointer, its grip does by keys */}
      <div class="title" onPointerDown={move} onDblClick={() => toggleMaximised(window)}>
        <h2 id={`title-${id}`}>
          <button
            type="button"
            class="grip"
            aria-describedby={GRIP_HELP}
            onKeyDown={key}
            onClick={(event) => event.detail === 0 && toggleMaximised(window)}
          >
            <Icon name={app} />
            {title}
          </button>
        </h2>
        {app === "terminal" && <Action icon="plus" label="Another terminal" onClick={() => openApp("terminal")} />}
        <span class="gap" />
        <Action icon="minimise" label={`Minimise ${title}`} onClick={() => minimise(id)} />
        <Action
          icon={window.maximised ? "restore" : "maximise"}
          label={window.maximised ? `Restore ${title}` : `Maximise ${title}`}
          onClick={() => toggleMaximised(window)}
          wide
        />
        <Action icon="close" label={`Close ${title}`} onClick={() => close(id)} />
      </div>
      <div class="body">
        <Body id={id} />
      </div>
      {["n", "e", "s", "w", "ne", "se", "sw", "nw"].map((edges) => (
        <div key={edges} class={`edge ${edges}`} onPointerDown={resize(edges)} />
      ))}
    </section>
  );
}

export function Action(props: {
  icon: string;
  label: string;
  onClick: () => void;
  wide?: boolean;
  disabled?: boolean;
}) {
  const { icon, label, wide, ...rest } = props;
  return (
    <button type="button" class={`action ${wide ? "wide" : ""}`} aria-label={label} title={label} {...rest}>
      <Icon name={icon} />
    </button>
  );
}
