// The Activity strip: the gateway's own records of this sandbox's calls, which the hypervisor serves on this origin.
const SHOWN = 50;
// A record is written just after the answer ended; asked for again a few times until it is there.
const WAITS = [120, 400, 1200, 3000];

export class Activity {
  #events = null;
  #newest = "";
  #calls = document.querySelector("#calls");
  #sums = document.querySelector("#sums");
  #nothing = document.querySelector("#nothing");
  #pulse = document.querySelector("#pulse");

  follow() {
    if (this.#events && this.#events.readyState !== EventSource.CLOSED) return;
    this.#events = new EventSource("/api/events");
    this.#events.addEventListener("run", (event) => {
      const { busy } = JSON.parse(event.data);
      const was = !this.#pulse.hidden;
      this.#pulse.hidden = !busy;
      if (was && !busy) this.refresh();
    });
    this.#load();
  }

  async refresh() {
    const before = this.#newest;
    for (const wait of WAITS) {
      await new Promise((resolve) => setTimeout(resolve, wait));
      await this.#load();
      if (this.#newest !== before) return;
    }
  }

  async #load() {
    try {
      const answer = await fetch(`/.choir/usage?limit=${SHOWN}`);
      if (answer.ok) this.#draw((await answer.json()).records);
    } catch {
      // The connection says that Choir does not answer.
    }
  }

  #draw(records) {
    const known = new Set([...this.#calls.children].map((item) => item.dataset.id));
    this.#newest = records[0]?.request_id ?? "";
    this.#nothing.hidden = records.length > 0;
    this.#calls.replaceChildren(...records.map((record) => call(record, known.size > 0 && !known.has(record.request_id))));
    this.#sums.replaceChildren(...(records.length ? sums(records) : []));
  }
}

function call(record, fresh) {
  const item = document.createElement("li");
  item.dataset.id = record.request_id;
  const wrong = record.outcome !== "ok";
  item.className = `${wrong ? "wrong" : ""} ${fresh ? "new" : ""}`;
  const head = box("div", "head", [box("span", "provider", record.provider), box("span", "status", record.status || "–")]);
  const numbers = box("div", "numbers", [
    pair(time(record.latency_ms), ""),
    record.ttft_ms == null ? "" : pair(time(record.ttft_ms), " to first"),
    pair(`${count(record.input_tokens)} → ${count(record.output_tokens)}`, " tokens"),
    box("time", "", new Date(record.ts).toLocaleTimeString()),
  ]);
  item.append(head, box("div", "model", record.model ?? record.route), numbers);
  if (wrong) item.append(box("div", "outcome", record.outcome));
  return item;
}

function sums(records) {
  const known = records.flatMap((record) => [record.input_tokens, record.output_tokens]).filter((value) => value != null);
  const times = records.map((record) => record.latency_ms).sort((a, b) => a - b);
  return [
    ["Calls", records.length === SHOWN ? `${SHOWN}+` : records.length],
    ["Tokens", known.length ? known.reduce((a, b) => a + b, 0).toLocaleString() : "–"],
    ["Median", time(times[Math.floor(times.length / 2)])],
  ].map(([name, value]) => box("div", "", [box("dt", "", name), box("dd", "", value)]));
}

function box(tag, name, content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...(Array.isArray(content) ? content : [content]));
  return element;
}

const pair = (value, words) => box("span", "", [box("b", "", value), words]);
const count = (value) => (value == null ? "–" : value.toLocaleString());
const time = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms)} ms`);
