// The Activity strip: the gateway's own records of this sandbox's calls, which the hypervisor serves on this origin.
const SHOWN = 50;

export class Activity {
  #records = null;
  #shown = [];
  #calls = document.querySelector("#calls");
  #sums = document.querySelector("#sums");
  #nothing = document.querySelector("#nothing");
  #pulse = document.querySelector("#pulse");

  constructor(connection) {
    connection.addEventListener("said", ({ detail }) => {
      if (detail.type === "history") this.#pulse.hidden = !detail.busy;
      if (detail.type === "message" && detail.message.state === "running") this.#pulse.hidden = false;
      if (detail.type === "end" || detail.type === "cleared") this.#pulse.hidden = true;
    });
  }

  // One stream a page: a browser has six connections to a host, for all its tabs.
  follow() {
    if (this.#records && this.#records.readyState !== EventSource.CLOSED) return;
    this.#shown = [];
    this.#records = new EventSource("/.choir/events");
    this.#records.addEventListener("open", () => this.#load()); // and after a break: some may have been missed
    this.#records.addEventListener("usage", (event) => this.#add(JSON.parse(event.data)));
    this.#records.addEventListener("state", () => this.#records.close()); // the connection says why
  }

  async #load() {
    try {
      const answer = await fetch(`/.choir/usage?limit=${SHOWN}`);
      if (answer.ok) this.#merge((await answer.json()).records);
    } catch {
      // The connection says that Choir does not answer.
    }
  }

  #add(record) {
    if (!this.#shown.some((each) => each.request_id === record.request_id)) this.#draw([record, ...this.#shown].slice(0, SHOWN));
  }

  // Records that came while the stored ones were asked for may not be among those yet.
  #merge(records) {
    const stored = new Set(records.map((record) => record.request_id));
    this.#draw([...this.#shown.filter((record) => !stored.has(record.request_id)), ...records].slice(0, SHOWN));
  }

  #draw(records) {
    const known = new Set(this.#shown.map((record) => record.request_id));
    this.#shown = records;
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
