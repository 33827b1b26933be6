// A model's text as elements: paragraphs, headings, lists, fenced code, `code`, **bold** and *italics*. Nothing in it can
// become markup, and links are shown, not followed.
import type { ComponentChild } from "preact";

export function Markdown({ text }: { text: string }) {
  return (
    <>
      {text.split(/^```/m).map((part, index) => {
        if (index % 2) return <Code key={index} text={part} />; // text only grows at its end: an index is a key
        return <Blocks key={index} text={part} />;
      })}
    </>
  );
}

function Code({ text }: { text: string }) {
  const [, language, code] = /^([^\n]*)\n?([\s\S]*)$/.exec(text) ?? [];
  return (
    <pre tabIndex={0} aria-label={language ? `Code, ${language}` : "Code"} role="group">
      <code>{(code ?? "").replace(/\n$/, "")}</code>
    </pre>
  );
}

function Blocks({ text }: { text: string }) {
  return (
    <>
      {text
        .split(/\n{2,}|(?<=^#{1,6} .*)\n/m)
        .filter((block) => block.trim())
        .map((block, index) => (
          <Block key={index} text={block.replace(/^\n+|\n+$/g, "")} />
        ))}
    </>
  );
}

function Block({ text }: { text: string }) {
  const heading = /^#{1,6} (.*)$/.exec(text);
  if (heading) return <p class="heading">{inline(heading[1] ?? "")}</p>;
  const lines = text.split("\n");
  const bullet = /^\s*(?:[-*+]|\d+[.)]) +/;
  if (bullet.test(lines[0] ?? "")) {
    const items: string[] = [];
    for (const line of lines) {
      if (bullet.test(line) || !items.length) items.push(line.replace(bullet, ""));
      else items[items.length - 1] += `\n${line.trim()}`;
    }
    const shown = items.map((item, index) => <li key={index}>{inline(item)}</li>);
    return /^\s*\d/.test(lines[0] ?? "") ? <ol>{shown}</ol> : <ul>{shown}</ul>;
  }
  return <p>{inline(text)}</p>;
}

function inline(text: string): ComponentChild[] {
  return text
    .split(/(`[^`\n]+`|\*\*[^*\n]+\*\*|(?<![\w*])\*[^*\s][^*\n]*\*(?![\w*]))/)
    .filter(Boolean)
    .map((piece) => {
      if (piece.length > 2 && piece.startsWith("`")) return <code>{piece.slice(1, -1)}</code>;
      if (piece.length > 4 && piece.startsWith("**")) return <strong>{piece.slice(2, -2)}</strong>;
      if (piece.length > 2 && piece.startsWith("*") && piece.endsWith("*")) return <em>{piece.slice(1, -1)}</em>;
      return piece;
    });
}
