// The sandbox's files over HTTP (`choir.sandbox.files_api`).
export interface Entry {
  name: string;
  kind: "folder" | "file" | "link" | "other";
  size: number;
  modified: number;
}

export const url = (route: string, path: string, more = "") => `/api/files/${route}?path=${escaped(path)}${more}`;

/** For a URL. A name is bytes: those that are not UTF-8 come as lone surrogates (Python's surrogateescape). */
export function escaped(path: string): string {
  return path
    .split(/([\ud800-\udfff])/u) // with u: only those that are no half of a pair
    .map((each, index) =>
      index % 2 ? `%${(each.charCodeAt(0) & 0xff).toString(16).padStart(2, "0")}` : encodeURIComponent(each),
    )
    .join("");
}

export const join = (folder: string, name: string) => (folder ? `${folder}/${name}` : name);

export class Refusal extends Error {
  constructor(
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

export async function ask(where: string, init?: RequestInit): Promise<Response> {
  const answer = await fetch(where, init);
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const error = said?.error;
  throw new Refusal(
    error?.reason ?? "",
    error?.message ? `${error.message} ${error.hint ?? ""}`.trim() : "The sandbox does not answer.",
  );
}

// fetch tells nothing of how far it is.
/** Upload one; `tell` hears which part of it is there. */
export function put(path: string, file: File, tell: (part: number) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url("content", path));
    request.setRequestHeader("if-none-match", "*");
    request.upload.onprogress = (event) => tell(event.total ? event.loaded / event.total : 0);
    request.onerror = () => reject(new Refusal("", "The sandbox does not answer."));
    request.onload = () => {
      if (request.status === 200) return resolve();
      try {
        const { reason, message, hint } = JSON.parse(request.responseText).error;
        reject(new Refusal(reason, `${message} ${hint ?? ""}`.trim()));
      } catch {
        reject(new Refusal("", "The sandbox did not take it."));
      }
    };
    request.send(file);
  });
}
