// The blocks of a model's Markdown, as much of it as models write. Pure; text that is still growing is a text too.
export type Block =
  | { kind: "text" | "heading" | "code"; text: string; language: string }
  | { kind: "quote"; blocks: Block[] }
  | { kind: "list"; start: number | null; items: Block[][] }
  | { kind: "table"; head: string[]; rows: string[][] }
  | { kind: "rule" };

const FENCE = /^ *(`{3,}|~{3,}) *([^`]*)$/;
const HEADING = /^ {0,3}#{1,6} +(.*)$/;
const QUOTE = /^ {0,3}> ?/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const ITEM = /^( *)([-*+]|(\d{1,9})[.)]) +/;
const TABLE = /^ *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$/;

export function blocksOf(text: string): Block[] {
  return parse(text.replace(/\t/g, "    ").split("\n"));
}

function parse(lines: string[]): Block[] {
  const found: Block[] = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at]!;
    const begun = at;
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    if (!line.trim()) at += 1;
    else if (fence) {
      const end = new RegExp(`^ *${fence[1]![0]}{${fence[1]!.length},} *$`);
      at = lines.findIndex((each, index) => index > begun && end.test(each));
      if (at < 0) at = lines.length;
      const code = lines.slice(begun + 1, at).map((each) => outdent(each, indent(line)));
      found.push({ kind: "code", text: code.join("\n"), language: fence[2]!.trim() });
      at += 1;
    } else if (heading) {
      found.push({ kind: "heading", text: heading[1]!, language: "" });
      at += 1;
    } else if (RULE.test(line)) {
      found.push({ kind: "rule" });
      at += 1;
    } else if (QUOTE.test(line)) {
      while (at < lines.length && QUOTE.test(lines[at]!)) at += 1;
      found.push({ kind: "quote", blocks: parse(lines.slice(begun, at).map((each) => each.replace(QUOTE, ""))) });
    } else if (isTable(lines, at)) {
      at += 2;
      while (at < lines.length && lines[at]!.includes("|")) at += 1;
      found.push({ kind: "table", head: cells(line), rows: lines.slice(begun + 2, at).map(cells) });
    } else if (ITEM.test(line)) {
      const [list, end] = takeList(lines, at);
      found.push(list);
      at = end;
    } else {
      at += 1;
      while (at < lines.length && !interrupts(lines, at)) at += 1;
      found.push({ kind: "text", text: lines.slice(begun, at).join("\n"), language: "" });
    }
  }
  return found;
}

/** What is indented more than an item's mark belongs to it. */
function takeList(lines: string[], at: number): [Block, number] {
  const first = ITEM.exec(lines[at]!)!;
  const ordered = first[3] !== undefined;
  const base = first[1]!.length;
  const items: Block[][] = [];
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]!);
    if (!item || item[1]!.length >= base + 2 || (item[3] !== undefined) !== ordered || RULE.test(lines[at]!)) break;
    const own = [lines[at]!.slice(item[0].length)];
    at += 1;
    while (at < lines.length) {
      const line = lines[at]!;
      const next = lines.slice(at).find((each) => each.trim()) ?? "";
      if (
        !line.trim()
          ? indent(next) < base + 2
          : indent(line) < base + 2 && (!lines[at - 1]!.trim() || interrupts(lines, at))
      )
        break;
      own.push(outdent(line, item[0].length));
      at += 1;
    }
    items.push(parse(own));
    let after = at;
    while (after < lines.length && !lines[after]!.trim()) after += 1;
    if (after < lines.length && ITEM.test(lines[after]!)) at = after; // blank lines between items
  }
  return [{ kind: "list", start: ordered ? Number(first[3]) : null, items }, at];
}

function interrupts(lines: string[], at: number): boolean {
  const line = lines[at]!;
  return !line.trim() || [FENCE, HEADING, QUOTE, RULE, ITEM].some((each) => each.test(line)) || isTable(lines, at);
}

const isTable = (lines: string[], at: number) =>
  lines[at]!.includes("|") && (lines[at + 1] ?? "").includes("|") && TABLE.test(lines[at + 1]!);

const cells = (line: string) =>
  line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((each) => each.trim().replaceAll("\\|", "|"));

const indent = (line: string) => line.length - line.trimStart().length;
const outdent = (line: string, most: number) => line.slice(Math.min(indent(line), most));
