// What was edited and not saved, by path: it outlives the window it was written in.
import { signal } from "@preact/signals";

export interface Draft {
  text: string;
  /** Of the version that was edited: another one is not to be replaced. */
  etag: string;
}

export const drafts = signal<ReadonlyMap<string, Draft>>(new Map());

export function keep(path: string, draft: Draft | null): void {
  const kept = new Map(drafts.value);
  if (draft) kept.set(path, draft);
  else kept.delete(path);
  drafts.value = kept;
}

/** What is at `from`, or beneath it, is at `to` now; null: nowhere. */
export function moved(from: string, to: string | null): void {
  const beneath = (path: string) => path === from || path.startsWith(`${from}/`);
  drafts.value = new Map(
    [...drafts.value]
      .filter(([path]) => to !== null || !beneath(path))
      .map(([path, draft]) => [beneath(path) ? `${to}${path.slice(from.length)}` : path, draft]),
  );
}

addEventListener("beforeunload", (event) => {
  if (drafts.value.size) event.preventDefault(); // the browser asks
});
