// This sandbox's model calls: sums with small charts, and the calls themselves.
import { useEffect } from "preact/hooks";
import { up } from "./connection";
import { running } from "./runs";
import { follow, records, SHOWN, type UsageRecord } from "./usage";

const CHARTED = 40;
const WIDTH = 120;
const HEIGHT = 32;

export function Activity() {
  const connected = up.value;
  useEffect(() => (connected ? follow() : undefined), [connected]);
  const calls = records.value ?? [];
  return (
    <>
      {running.value && (
        <p class="pulse" role="status">
          The agent is working
        </p>
      )}
      {calls.length > 0 && <Sums calls={calls} />}
      {records.value?.length === 0 && <p class="nothing">No model call since the sandbox started.</p>}
      <ol class="calls" id="calls" aria-label="Model calls, newest first" tabIndex={0} data-focus>
        {calls.map((record) => (
          <Call key={record.request_id} record={record} />
        ))}
      </ol>
    </>
  );
}

function Sums({ calls }: { calls: UsageRecord[] }) {
  const latest = calls.slice(0, CHARTED).reverse(); // oldest first
  const tokens = sum(
    calls,
    (call) => call.input_tokens,
    (call) => call.output_tokens,
  );
  const money = sum(calls, (call) => call.cost_usd);
  const times = calls.map((call) => call.latency_ms).sort((a, b) => a - b);
  const wrong = calls.filter((call) => call.outcome !== "ok").length;
  const spent: number[] = [];
  for (const call of latest) spent.push((spent.at(-1) ?? 0) + (call.cost_usd ?? 0));
  return (
    <dl class="sums">
      <Sum
        name={calls.length < SHOWN ? "Calls" : "The last calls"}
        value={calls.length.toLocaleString()}
        more={wrong ? `${wrong} not ok` : ""}
      >
        <Bars label="Calls a minute" values={perMinute(calls)} />
      </Sum>
      <Sum name="Tokens" value={tokens === null ? "–" : short(tokens)}>
        <Bars
          label="Tokens of each call, in and out"
          values={latest.map((call) => (call.input_tokens ?? 0) + (call.output_tokens ?? 0))}
          lower={latest.map((call) => call.input_tokens ?? 0)}
        />
      </Sum>
      <Sum name="Money" value={money === null ? "–" : dollars(money)}>
        <Line label="Money spent, added up" values={spent} />
      </Sum>
      <Sum name="Median latency" value={time(times[Math.floor(times.length / 2)]!)}>
        <Bars
          label="Latency of each call"
          values={latest.map((call) => call.latency_ms)}
          wrong={latest.map((call) => call.outcome !== "ok")}
        />
      </Sum>
    </dl>
  );
}

function Sum(props: { name: string; value: string; more?: string; children: preact.ComponentChildren }) {
  return (
    <div>
      <dt>{props.name}</dt>
      <dd>
        {props.value}
        {props.more && <small>{props.more}</small>}
      </dd>
      <dd class="chart">{props.children}</dd>
    </div>
  );
}

function Bars({
  label,
  values,
  lower,
  wrong,
}: {
  label: string;
  values: number[];
  lower?: number[];
  wrong?: boolean[];
}) {
  const most = Math.max(...values, 1e-9);
  const step = WIDTH / Math.max(values.length, 16);
  const bar = (value: number, index: number, name: string) => {
    const height = value > 0 ? Math.max((value / most) * HEIGHT, 1.5) : 0;
    const x = WIDTH - (values.length - index) * step;
    return (
      <rect
        key={`${name}${index}`}
        class={name}
        x={x + step * 0.15}
        y={HEIGHT - height}
        width={step * 0.7}
        height={height}
        rx={1}
      />
    );
  };
  return (
    <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={label}>
      {values.map((value, index) => bar(value, index, wrong?.[index] ? "wrong" : "bar"))}
      {lower?.map((value, index) => bar(value, index, "lower"))}
    </svg>
  );
}

function Line({ label, values }: { label: string; values: number[] }) {
  const most = Math.max(...values, 1e-9);
  const x = (index: number) => (values.length > 1 ? (index / (values.length - 1)) * WIDTH : WIDTH);
  const points = values.map(
    (value, index) => `${x(index).toFixed(1)} ${(HEIGHT - 1 - (value / most) * (HEIGHT - 3)).toFixed(1)}`,
  );
  return (
    <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={label}>
      <path class="area" d={`M0 ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}z`} />
      <path class="line" d={`M${points.length > 1 ? points.join("L") : `0 ${HEIGHT - 1}L${points[0]}`}`} />
    </svg>
  );
}

function Call({ record }: { record: UsageRecord }) {
  const wrong = record.outcome !== "ok";
  return (
    <li class={wrong ? "wrong" : ""} data-id={record.request_id}>
      <div class="head">
        <span class="provider">{record.provider}</span>
        <span class="model">{record.model ?? record.route}</span>
        <time dateTime={record.ts}>{new Date(record.ts).toLocaleTimeString()}</time>
        <span class="status">{record.status || "–"}</span>
      </div>
      <div class="numbers">
        <span>
          <b>{time(record.latency_ms)}</b>
        </span>
        {record.ttft_ms !== null && (
          <span>
            <b>{time(record.ttft_ms)}</b> to first
          </span>
        )}
        <span>
          <b>
            {count(record.input_tokens)} → {count(record.output_tokens)}
          </b>{" "}
          tokens
        </span>
        {record.cost_usd !== null && (
          <span>
            <b>{dollars(record.cost_usd)}</b>
          </span>
        )}
      </div>
      {wrong && <div class="outcome">{record.outcome}</div>}
    </li>
  );
}

function sum(calls: UsageRecord[], ...of: ((call: UsageRecord) => number | null)[]): number | null {
  const known = calls
    .flatMap((call) => of.map((each) => each(call)))
    .filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((a, b) => a + b, 0) : null;
}

/** Calls in each of the minutes from the first to the last, at most `CHARTED` of them. */
function perMinute(calls: UsageRecord[]): number[] {
  const minutes = calls.map((call) => Math.floor(Date.parse(call.ts) / 60_000));
  const last = Math.max(...minutes);
  const first = Math.max(Math.min(...minutes), last - CHARTED + 1);
  const counts = new Array<number>(last - first + 1).fill(0);
  for (const minute of minutes) if (minute >= first) counts[minute - first]! += 1;
  return counts;
}

const count = (value: number | null) => (value === null ? "–" : value.toLocaleString());
const time = (ms: number) => (ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms)} ms`);
const dollars = (value: number) => `$${value >= 1 ? value.toFixed(2) : value === 0 ? "0" : value.toPrecision(2)}`;
const short = (value: number) =>
  value >= 100_000 ? `${Math.round(value / 1000).toLocaleString()}k` : value.toLocaleString();
