// The Files window: a folder's list, or one file to look at and edit.
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { up } from "./connection";
import { moved } from "./drafts";
import { dropped, type Upload } from "./dropped";
import { ask, type Entry, escaped, join, put, Refusal, url } from "./file-access";
import { FileList } from "./file-list";
import { look, type Opened, Viewer } from "./file-viewer";
import { Ask, type Question } from "./question";
import { running } from "./runs";

export function Files({ id }: { id: string }) {
  const folder = useSignal("");
  const entries = useSignal<Entry[]>([]);
  const truncated = useSignal(false);
  const hidden = useSignal(false);
  const opened = useSignal<Opened | null>(null);
  const question = useSignal<Question | null>(null);
  const problem = useSignal("");
  const progress = useSignal<string>("");
  const dropping = useSignal(false);
  const upload = useRef<HTMLInputElement>(null);

  const attempt = async (act: () => Promise<void>) => {
    problem.value = "";
    try {
      await act();
    } catch (error) {
      problem.value = error instanceof Refusal ? error.message : "The sandbox does not answer.";
    }
  };
  const list = async (where: string) => {
    const said = await (await ask(url("list", where))).json();
    folder.value = where;
    entries.value = said.entries;
    truncated.value = said.truncated;
  };
  const go = (where: string) => attempt(() => list(where));
  const refresh = () => go(folder.value);
  const view = async (path: string) => {
    opened.value = await look(path);
  };
  const connected = up.value;
  const idle = running.value === null;
  // When the page is connected (again), and when the agent has done something: nothing is asked for on a clock.
  useEffect(() => {
    if (connected && idle) refresh();
  }, [connected, idle]);

  const send = async (uploads: Upload[]) => {
    const where = folder.value; // another one may be open before the last is there
    let known = 0;
    let said = "";
    for (const [index, { path, file }] of uploads.entries()) {
      try {
        if (file)
          await put(join(where, path), file, (part) => {
            progress.value = `${path} ${Math.round(part * 100)} % (${index + 1} of ${uploads.length})`;
          });
        else await ask(url("folder", join(where, path)), { method: "POST" });
      } catch (error) {
        if (file || !(error instanceof Refusal) || error.reason !== "file_exists") {
          said ||= error instanceof Refusal ? error.message : "The sandbox does not answer.";
          if (!(error instanceof Refusal) || error.reason !== "file_exists") break;
          known += 1;
        }
      }
    }
    progress.value = "";
    await refresh();
    if (said) problem.value = known > 1 ? `${said} So it is with ${known - 1} more; none was replaced.` : said;
  };
  const rename = (name: string) => {
    question.value = {
      title: `Rename ${name}`,
      label: "New name",
      value: name,
      verb: "Rename",
      act: async (value) => {
        const [from, to] = [join(folder.value, name), join(folder.value, value)];
        await ask(url("rename", from, `&to=${escaped(to)}`), { method: "POST" });
        moved(from, to);
      },
    };
  };
  const remove = (entry: Entry) => {
    question.value = {
      title: `Delete ${entry.name}${entry.kind === "folder" ? " and all in it" : ""}?`,
      label: "",
      value: null,
      verb: "Delete",
      bad: true,
      act: async () => {
        await ask(url("delete", join(folder.value, entry.name)), { method: "POST" });
        moved(join(folder.value, entry.name), null);
      },
    };
  };
  const make = (what: "folder" | "file") => {
    question.value = {
      title: `New ${what}`,
      label: "Name",
      value: "",
      verb: "Make",
      act: async (value) => {
        const path = join(folder.value, value);
        if (what === "folder") await ask(url("folder", path), { method: "POST" });
        else {
          await ask(url("content", path), { method: "PUT", body: "", headers: { "if-none-match": "*" } });
          await view(path);
        }
      },
    };
  };

  if (opened.value)
    return (
      <Viewer
        opened={opened as Signal<Opened>}
        back={() => {
          opened.value = null;
          refresh();
        }}
      />
    );
  const shown = entries.value.filter((entry) => hidden.value || !entry.name.startsWith("."));
  const parts = folder.value ? folder.value.split("/") : [];
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: files can be chosen with the button as well
    <div
      class={`filing ${dropping.value ? "dropping" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        dropping.value = true;
      }}
      onDragLeave={(event) => {
        if (event.target === event.currentTarget) dropping.value = false;
      }}
      onDrop={(event) => {
        event.preventDefault();
        dropping.value = false;
        if (event.dataTransfer) dropped(event.dataTransfer.items).then(send);
      }}
    >
      <div class="strip">
        <nav aria-label="Folder" class="crumbs">
          <button type="button" class="plain" data-focus onClick={() => go("")}>
            Home
          </button>
          {parts.map((name, index) => (
            <span key={parts.slice(0, index + 1).join("/")}>
              <i aria-hidden="true">/</i>
              <button type="button" class="plain" onClick={() => go(parts.slice(0, index + 1).join("/"))}>
                {name}
              </button>
            </span>
          ))}
        </nav>
        <span class="gap" />
        <label class="plain check">
          <input type="checkbox" checked={hidden} onChange={(event) => (hidden.value = event.currentTarget.checked)} />
          Hidden
        </label>
        <button type="button" class="plain" onClick={() => make("file")}>
          New file
        </button>
        <button type="button" class="plain" onClick={() => make("folder")}>
          New folder
        </button>
        <button type="button" class="plain strong" onClick={() => upload.current?.click()}>
          Upload
        </button>
        <input
          ref={upload}
          class="unseen"
          type="file"
          multiple
          tabIndex={-1}
          aria-label="Files to upload"
          onChange={(event) => {
            send([...(event.currentTarget.files ?? [])].map((file) => ({ path: file.name, file })));
            event.currentTarget.value = "";
          }}
        />
      </div>
      {problem.value && (
        <p class="note refused" role="alert">
          {problem}
        </p>
      )}
      <p class="progress" role="status">
        {progress}
      </p>
      <FileList
        key={folder.value}
        folder={folder.value}
        entries={shown}
        truncated={truncated.value}
        open={(path, kind) => (kind === "folder" ? go(path) : attempt(() => view(path)))}
        rename={rename}
        remove={remove}
      />
      {question.value && <Ask id={id} question={question as Signal<Question | null>} done={refresh} />}
    </div>
  );
}
