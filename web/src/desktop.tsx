// The bar, the windows and the dock.
import { useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { notice, sandbox, up, words } from "./connection";
import { Icon, Mark } from "./icons";
import { type App, cycle, focusWanted, layout, minimise, openApp, raise, tidy, top, wantFocus } from "./layout";
import { Frame, GRIP_HELP } from "./window";

export const APPS: Record<App, string> = {
  prompt: "Prompt",
  terminal: "Terminal",
  files: "Files",
  memory: "Memory",
  activity: "Activity",
};

export function Desktop() {
  useEffect(() => {
    const key = (event: KeyboardEvent) => {
      if (event.key !== "F6" || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      cycle(event.shiftKey);
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);
  return (
    <>
      <Bar />
      {notice.value && (
        <p class="notice" id="notice" role="alert">
          {notice}{" "}
          {sandbox.value?.control && !sandbox.value.signedOut && (
            <a href={sandbox.value.control}>See what can be done</a>
          )}
        </p>
      )}
      <Windows />
      <Dock />
    </>
  );
}

function Bar() {
  const who = sandbox.value;
  return (
    <header class="bar">
      <Mark />
      <h1>Choir</h1>
      <span class="who" id="who">
        {who?.control ? `${who.user} · ${who.role}` : ""}
      </span>
      <span class={`link ${up.value ? "up" : "down"}`} id="link" role="status">
        <i aria-hidden="true" />
        <span>{words}</span>
      </span>
      <button type="button" class="plain wide" onClick={tidy} title="Put the windows back where they were at first">
        Tidy
      </button>
      {who?.control && (
        <nav aria-label="Choir">
          <a class="plain" href={who.control}>
            Sandbox
          </a>
          <a class="plain" href={new URL("/account", who.control).href}>
            Account
          </a>
        </nav>
      )}
    </header>
  );
}

function Windows() {
  const place = useRef<HTMLElement>(null);
  // Focus follows what the person asked for, once it is there.
  useSignalEffect(() => {
    if (!focusWanted.value) return;
    requestAnimationFrame(() => {
      const id = top.peek()?.id;
      const window = id ? place.current?.querySelector<HTMLElement>(`[data-window="${id}"]`) : null;
      const wanted = window?.querySelector<HTMLElement>("[data-focus]") ?? window?.querySelector<HTMLElement>(".grip");
      if (window && !window.contains(document.activeElement)) wanted?.focus();
      if (!window) document.querySelector<HTMLElement>(".dock button")?.focus();
    });
  });
  const shown = layout.value;
  return (
    <main class="desk" ref={place}>
      <p id={GRIP_HELP} hidden>
        Arrow keys move the window, with Shift they change its size. Enter fills the desktop.
      </p>
      {shown?.length === 0 && <p class="bare">Everything is closed. Open something below.</p>}
      {shown &&
        [...shown]
          .sort((a, b) => (a.id < b.id ? -1 : 1)) // a stable order: moving an element would reload what is in it
          .map((each) => <Frame key={each.id} window={each} level={shown.indexOf(each)} />)}
    </main>
  );
}

function Dock() {
  const windows = layout.value ?? [];
  const press = (app: App) => {
    const own = windows.filter((each) => each.app === app);
    const window = own.at(-1);
    if (!window) openApp(app);
    else if (top.value?.app === app && own.length === 1 && !narrow.matches) minimise(window.id);
    else {
      raise((own.find((each) => each.id !== top.value?.id) ?? window).id);
      wantFocus();
    }
  };
  return (
    <nav class="dock" aria-label="Apps">
      {(Object.keys(APPS) as App[]).map((app) => {
        const open = windows.some((each) => each.app === app);
        return (
          <button
            type="button"
            key={app}
            class={`${open ? "open" : ""} ${top.value?.app === app ? "top" : ""}`}
            aria-label={APPS[app]}
            aria-pressed={top.value?.app === app}
            onClick={() => press(app)}
          >
            <Icon name={app} />
            <span>{APPS[app]}</span>
          </button>
        );
      })}
    </nav>
  );
}

export const narrow = matchMedia("(max-width: 45rem)");
