// What was dropped, folders with all that is in them.
import { join } from "./file-access";

export interface Upload {
  /** Relative to the folder it goes to. */
  path: string;
  /** null: a folder. */
  file: File | null;
}

export async function dropped(items: DataTransferItemList): Promise<Upload[]> {
  const entries = [...items].map((item) => item.webkitGetAsEntry()); // at once: they are gone after the event
  const found: Upload[] = [];
  for (const entry of entries) if (entry) await walk(entry, "", found);
  return found;
}

async function walk(entry: FileSystemEntry, folder: string, found: Upload[]): Promise<void> {
  const path = join(folder, entry.name);
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    found.push({ path, file });
    return;
  }
  found.push({ path, file: null });
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const some = () => new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
  for (let each = await some(); each.length; each = await some())
    for (const below of each) await walk(below, path, found);
}
