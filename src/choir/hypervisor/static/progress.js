// Follows a start as it happens. Without this script the page reloads itself instead.
const list = document.querySelector("[data-events]");
const heading = document.querySelector("h1");
const status = document.querySelector("[role=status]");
const waiting = document.querySelector("#waiting");
const rows = [...list.querySelectorAll("[data-phase]")];

function reached(name, at) {
  const index = rows.findIndex((row) => row.dataset.phase === name);
  rows.forEach((row, number) => {
    row.classList.toggle("done", number <= index || row.classList.contains("done"));
    row.classList.toggle("now", number === index + 1);
  });
  if (index >= 0) {
    rows[index].querySelector("time").textContent = `${at.toFixed(2)} s`;
    status.textContent = rows[index].querySelector(".name").textContent;
  }
}

const events = new EventSource(list.dataset.events);
events.addEventListener("open", () => { waiting.hidden = true; });
const leave = (where) => { events.close(); location.replace(where); };

events.addEventListener("phase", (event) => {
  const { phase, at } = JSON.parse(event.data);
  reached(phase, at);
});
events.addEventListener("stopping", () => { heading.textContent = "Stopping your sandbox"; });
events.addEventListener("ready", () => leave(list.dataset.enter));
for (const kind of ["failed", "stopped", "absent", "signed_out"]) {
  events.addEventListener(kind, () => leave(list.dataset.page));
}
// EventSource connects again by itself, also across a restart of the hypervisor; only a refusal ends it.
events.addEventListener("error", () => {
  waiting.hidden = false;
  if (events.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 2000);
});
