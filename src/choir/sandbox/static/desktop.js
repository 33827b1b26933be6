// The desktop's parts, put together.
import { Activity } from "./activity.js";
import { Connection } from "./connection.js";
import { Prompt } from "./prompt.js";

const connection = new Connection();
const activity = new Activity(connection);
new Prompt(connection);

const link = document.querySelector("#link");
const notice = document.querySelector("#notice");
const control = document.querySelector("#control");

connection.addEventListener("state", ({ detail }) => {
  const { up, words, message, state } = detail;
  link.className = `link ${up ? "up" : "down"}`;
  link.lastElementChild.textContent = words;
  if (state?.control) {
    document.querySelector("#who").textContent = `${state.user} · ${state.role}`;
    control.href = state.control;
    control.hidden = false;
  }
  notice.hidden = !message;
  if (message) {
    notice.replaceChildren(`${message} `);
    if (control.href && !control.hidden) notice.append(Object.assign(document.createElement("a"), { href: control.href, textContent: "See what can be done" }));
  }
  if (up) activity.follow();
});

connection.open();
