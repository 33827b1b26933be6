// What is in a folder, as a table.
import { useSignal } from "@preact/signals";
import { drafts } from "./drafts";
import { type Entry, join, url } from "./file-access";
import { Icon } from "./icons";

const AT_ONCE = 500;

interface Props {
  folder: string;
  entries: Entry[];
  /** There are more than these. */
  truncated: boolean;
  open: (path: string, kind: Entry["kind"]) => void;
  rename: (name: string) => void;
  remove: (entry: Entry) => void;
}

export function FileList({ folder, entries, truncated, open, rename, remove }: Props) {
  const most = useSignal(AT_ONCE);
  return (
    <div class="listing" tabIndex={0} role="region" aria-label="Files in this folder">
      {entries.length === 0 ? (
        <p class="nothing">
          Nothing here yet.<span class="by-mouse"> Drop files or folders to upload them.</span>
        </p>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col" class="size">
                Size
              </th>
              <th scope="col" class="when">
                Changed
              </th>
              <th scope="col">
                <span class="unseen">What can be done</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {entries.slice(0, most.value).map((entry) => {
              const path = join(folder, entry.name);
              return (
                <tr key={entry.name} class={entry.kind}>
                  <th scope="row">
                    <button
                      type="button"
                      disabled={entry.kind === "link" || entry.kind === "other"}
                      onClick={() => open(path, entry.kind)}
                    >
                      <Icon name={entry.kind === "folder" ? "files" : entry.kind === "link" ? "link" : "file"} />
                      {entry.name}
                      {drafts.value.has(path) && <span class="unsaved">Not saved</span>}
                    </button>
                  </th>
                  <td class="size">
                    {entry.kind === "file" ? size(entry.size) : entry.kind === "folder" ? "" : entry.kind}
                  </td>
                  <td class="when">{when(entry.modified)}</td>
                  <td class="acts">
                    {entry.kind === "file" && (
                      <a
                        class="action"
                        href={url("content", path)}
                        download={entry.name}
                        aria-label={`Download ${entry.name}`}
                        title="Download"
                      >
                        <Icon name="download" />
                      </a>
                    )}
                    <button
                      type="button"
                      class="plain"
                      aria-label={`Rename ${entry.name}`}
                      onClick={() => rename(entry.name)}
                    >
                      Rename
                    </button>
                    <button
                      type="button"
                      class="plain"
                      aria-label={`Delete ${entry.name}`}
                      onClick={() => remove(entry)}
                    >
                      Delete
                    </button>
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
      {entries.length > most.value && (
        <button type="button" class="plain strong more" onClick={() => (most.value += AT_ONCE)}>
          Show more of {entries.length.toLocaleString()}
        </button>
      )}
      {truncated && entries.length <= most.value && (
        <p class="nothing">There is more; only the first {entries.length.toLocaleString()} are shown.</p>
      )}
    </div>
  );
}

function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const power = Math.min(Math.floor(Math.log10(bytes) / 3), 4);
  const value = bytes / 1000 ** power;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

function when(seconds: number): string {
  const date = new Date(seconds * 1000);
  return date.toDateString() === new Date().toDateString()
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString();
}
