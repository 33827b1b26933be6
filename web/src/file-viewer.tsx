// One file: its text to edit, or its picture.
import { type Signal, useSignal } from "@preact/signals";
import { drafts, keep } from "./drafts";
import { ask, Refusal, url } from "./file-access";
import { Action } from "./window";

export interface Opened {
  path: string;
  /** Text of a file that can be edited; null for others. */
  text: string | null;
  etag: string;
  /** What its lines end with; a text area knows only "\n". */
  newline: string;
  image: boolean;
  note: string;
}

const IMAGE = /\.(png|jpe?g|gif|webp|avif)$/i;

export async function look(path: string): Promise<Opened> {
  const file: Opened = { path, text: null, etag: "", newline: "\n", image: IMAGE.test(path), note: "" };
  if (file.image) return file;
  try {
    return { ...file, ...(await read(path)) };
  } catch (error) {
    if (!(error instanceof Refusal) || !["binary", "too_large"].includes(error.reason)) throw error;
    return { ...file, note: error.message };
  }
}

async function read(path: string): Promise<Pick<Opened, "text" | "etag" | "newline">> {
  const answer = await ask(url("content", path, "&text=1"));
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(await answer.arrayBuffer()); // it stays in it
  return {
    text: text.replace(/\r\n?/g, "\n"),
    etag: answer.headers.get("etag") ?? "",
    newline: /\r\n|\r|\n/.exec(text)?.[0] ?? "\n",
  };
}

export function Viewer({ opened, back }: { opened: Signal<Opened>; back: () => void }) {
  const { path, text, etag, newline, image, note } = opened.value;
  const draft = drafts.value.get(path);
  const problem = useSignal("");
  const saved = useSignal("");
  const changed = draft !== undefined;
  const name = path.slice(path.lastIndexOf("/") + 1);
  const save = async (): Promise<void> => {
    if (!draft) return;
    problem.value = saved.value = "";
    const now = draft.text;
    try {
      const answer = await ask(url("content", path), {
        method: "PUT",
        body: now.replaceAll("\n", newline),
        headers: { "if-match": draft.etag },
      });
      const saves = answer.headers.get("etag") ?? "";
      opened.value = { ...opened.value, text: now, etag: saves };
      const typed = drafts.value.get(path)?.text; // meanwhile, too
      keep(path, typed === undefined || typed === now ? null : { text: typed, etag: saves });
      saved.value = "Saved";
    } catch (error) {
      problem.value = error instanceof Refusal ? error.message : "The sandbox does not answer.";
    }
  };
  const reload = async () => {
    try {
      opened.value = { ...opened.value, ...(await read(path)) };
      keep(path, null);
      problem.value = "";
    } catch (error) {
      problem.value = (error as Error).message;
    }
  };
  return (
    <div class="filing">
      <div class="strip">
        <Action icon="back" label="Back to the folder" onClick={back} />
        <b class="name">{name}</b>
        <span class="progress" role="status">
          {changed ? "Not saved" : saved}
        </span>
        <span class="gap" />
        <a class="plain" href={url("content", path)} download={name}>
          Download
        </a>
        {text !== null && (
          <button type="button" class="plain strong" disabled={!changed} onClick={save}>
            Save
          </button>
        )}
      </div>
      {problem.value && (
        <p class="note refused" role="alert">
          {problem}{" "}
          <button type="button" class="plain" onClick={reload}>
            Load it again
          </button>
        </p>
      )}
      {text !== null ? (
        <textarea
          data-focus
          class="editor"
          aria-label={`Text of ${name}`}
          spellcheck={false}
          wrap="off"
          value={draft?.text ?? text}
          onInput={(event) => {
            const now = event.currentTarget.value;
            keep(path, now === text ? null : { text: now, etag: draft?.etag ?? etag });
          }}
          onKeyDown={(event) => {
            if ((event.ctrlKey || event.metaKey) && event.key === "s") {
              event.preventDefault();
              save();
            }
          }}
        />
      ) : image ? (
        <div class="picture">
          <img src={url("content", path, "&image=1")} alt={name} />
        </div>
      ) : (
        <p class="nothing">{note}</p>
      )}
    </div>
  );
}
