// Passkeys: asks the browser for one, or to make one. Everything else on these pages works without a script.
const note = document.querySelector("#passkey-note");
const say = (text) => { note.textContent = text; note.hidden = !text; };

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.error.message} ${answer.error.hint}`.trim());
  return answer;
}

async function signIn() {
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(await post("/login/passkey/options"));
  const credential = await navigator.credentials.get({ publicKey });
  return post("/login/passkey", credential.toJSON());
}

async function add() {
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(await post("/account/passkeys/options"));
  const credential = await navigator.credentials.create({ publicKey });
  return post("/account/passkeys", { credential: credential.toJSON() });
}

function onClick(id, act) {
  const button = document.querySelector(id);
  if (!button) return;
  if (!window.PublicKeyCredential?.parseRequestOptionsFromJSON) {
    button.disabled = true;
    say("This browser cannot use passkeys here.");
    return;
  }
  button.addEventListener("click", async () => {
    button.disabled = true;
    say("");
    try {
      location.assign((await act()).where);
    } catch (error) {
      // A person who closes the browser's dialog knows that; anything else is worth a word.
      say(error.name === "NotAllowedError" ? "Nothing was chosen." : error.message);
      button.disabled = false;
    }
  });
}

onClick("#passkey-sign-in", signIn);
onClick("#passkey-add", add);
