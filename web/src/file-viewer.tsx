// One file: its text to edit, or its picture.
import { type Signal, useSignal } from "@preact/signals";
import { ask, Refusal, url } from "./file-access";
import { Action } from "./window";

export interface Opened {
  path: string;
  /** Text of a file that can be edited; null for others. */
  text: string | null;
  etag: string;
  image: boolean;
  note: string;
}

const IMAGE = /\.(png|jpe?g|gif|webp|avif)$/i;

export async function look(path: string): Promise<Opened> {
  const file: Opened = { path, text: null, etag: "", image: IMAGE.test(path), note: "" };
  if (!file.image) {
    try {
      const answer = await ask(url("content", path, "&text=1"));
      file.etag = answer.headers.get("etag") ?? "";
      file.text = await answer.text();
    } catch (error) {
      if (!(error instanceof Refusal) || !["binary", "too_large"].includes(error.reason)) throw error;
      file.note = error.message;
    }
  }
  return file;
}

export function Viewer({ opened, back }: { opened: Signal<Opened>; back: () => void }) {
  const { path, text, image, note } = opened.value;
  const edited = useSignal<string | null>(null);
  const problem = useSignal("");
  const saved = useSignal("");
  const changed = edited.value !== null && edited.value !== text;
  const name = path.slice(path.lastIndexOf("/") + 1);
  const save = async (): Promise<void> => {
    if (!changed) return;
    problem.value = saved.value = "";
    const now = edited.value!;
    try {
      const answer = await ask(url("content", path), {
        method: "PUT",
        body: now,
        headers: { "if-match": opened.value.etag },
      });
      opened.value = { ...opened.value, text: now, etag: answer.headers.get("etag") ?? "" };
      saved.value = "Saved";
    } catch (error) {
      problem.value = error instanceof Refusal ? error.message : "The sandbox does not answer.";
    }
  };
  const reload = async () => {
    try {
      const answer = await ask(url("content", path, "&text=1"));
      opened.value = { ...opened.value, text: await answer.text(), etag: answer.headers.get("etag") ?? "" };
      edited.value = null;
      problem.value = "";
    } catch (error) {
      problem.value = (error as Error).message;
    }
  };
  return (
    <div class="files">
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
          value={edited.value ?? text}
          onInput={(event) => (edited.value = event.currentTarget.value)}
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
