// A terminal's window. xterm.js itself comes when the first one is opened.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { up } from "./connection";
import type { Shell } from "./shell";

const READ_ALOUD = "choir-read-aloud";

export function TerminalApp({ id }: { id: string }) {
  const place = useRef<HTMLDivElement>(null);
  const shell = useRef<Shell | null>(null);
  const note = useSignal("");
  const ended = useSignal(false);
  const aloud = useSignal(localStorage.getItem(READ_ALOUD) === "yes");
  const connected = up.value;

  useEffect(() => {
    let gone = false;
    import("./shell").then(({ Shell }) => {
      if (gone || !place.current) return;
      shell.current = new Shell(place.current, id, aloud.value, (words, over) => {
        note.value = words;
        ended.value = over;
      });
    });
    return () => {
      gone = true;
      shell.current?.dispose();
    };
  }, []);
  useEffect(() => {
    if (connected) shell.current?.connect();
  }, [connected]);

  return (
    <>
      <div class="shell" ref={place} onFocusCapture={() => shell.current?.fit()} />
      <div class="below">
        <span role="status">{note}</span>
        {ended.value && (
          <button type="button" class="plain strong" onClick={() => shell.current?.again()}>
            New shell
          </button>
        )}
        <span class="gap" />
        <span class="help">F6 leaves the terminal</span>
        <label class="plain check">
          <input
            type="checkbox"
            checked={aloud}
            onChange={(event) => {
              aloud.value = event.currentTarget.checked;
              localStorage.setItem(READ_ALOUD, aloud.value ? "yes" : "no");
              shell.current?.readAloud(aloud.value);
            }}
          />
          Screen reader
        </label>
      </div>
    </>
  );
}
