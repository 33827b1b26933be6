// The sandbox's files over HTTP (`choir.sandbox.files_api`).
export interface Entry {
  name: string;
  kind: "folder" | "file" | "link" | "other";
  size: number;
  modified: number;
}

export const url = (route: string, path: string, more = "") =>
  `/api/files/${route}?path=${encodeURIComponent(path)}${more}`;
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
