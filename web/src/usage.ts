// The gateway's own records of this sandbox's calls, which the hypervisor serves on this origin. One stream a page, and
// none while nobody looks: a browser has six connections to a host, for all its tabs.
import { signal } from "@preact/signals";

export const SHOWN = 200;

export interface UsageRecord {
  ts: string;
  request_id: string;
  provider: string;
  model: string | null;
  route: string;
  status: number;
  outcome: string;
  latency_ms: number;
  ttft_ms: number | null;
  input_tokens: number | null;
  output_tokens: number | null;
  cost_usd: number | null;
}

/** Newest first; null until they have come. */
export const records = signal<UsageRecord[] | null>(null);

let stream: EventSource | null = null;

/** Follow them while the page is seen; returns what ends that. */
export function follow(): () => void {
  const look = () => (document.hidden ? end() : begin());
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    end();
  };
}

function begin(): void {
  if (stream && stream.readyState !== EventSource.CLOSED) return;
  stream = new EventSource("/.choir/events");
  stream.addEventListener("open", load); // and after a break: some may have been missed
  stream.addEventListener("usage", (event) => add(JSON.parse(event.data)));
  stream.addEventListener("state", end); // the connection says why
}

function end(): void {
  stream?.close();
  stream = null;
}

async function load(): Promise<void> {
  try {
    const answer = await fetch(`/.choir/usage?limit=${SHOWN}`);
    if (answer.ok) merge((await answer.json()).records);
  } catch {
    // The connection says that Choir does not answer.
  }
}

function add(record: UsageRecord): void {
  const known = records.value ?? [];
  if (!known.some((each) => each.request_id === record.request_id)) records.value = [record, ...known].slice(0, SHOWN);
}

// Records that came while the stored ones were asked for may not be among those yet.
function merge(stored: UsageRecord[]): void {
  const ids = new Set(stored.map((record) => record.request_id));
  records.value = [...(records.value ?? []).filter((record) => !ids.has(record.request_id)), ...stored].slice(0, SHOWN);
}
