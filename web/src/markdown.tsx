// A model's text as elements. Nothing in it can become markup, and links are shown, not followed.
import type { ComponentChild } from "preact";
import { type Block, blocksOf } from "./markdown-blocks";

export function Markdown({ text }: { text: string }) {
  return <Blocks blocks={blocksOf(text)} />;
}

function Blocks({ blocks }: { blocks: Block[] }) {
  return (
    <>
      {blocks.map((block, index) => (
        <Shown key={index} block={block} /> // text only grows at its end: an index is a key
      ))}
    </>
  );
}

function Shown({ block }: { block: Block }) {
  switch (block.kind) {
    case "text":
      return <p>{inline(block.text)}</p>;
    case "heading":
      return <p class="heading">{inline(block.text)}</p>;
    case "code":
      return (
        <pre tabIndex={0} aria-label={block.language ? `Code, ${block.language}` : "Code"} role="group">
          <code>{block.text}</code>
        </pre>
      );
    case "quote":
      return (
        <blockquote>
          <Blocks blocks={block.blocks} />
        </blockquote>
      );
    case "list": {
      const items = block.items.map((item, index) => (
        <li key={index}>
          {item[0]?.kind === "text" && inline(item[0].text)}
          <Blocks blocks={item[0]?.kind === "text" ? item.slice(1) : item} />
        </li>
      ));
      return block.start === null ? <ul>{items}</ul> : <ol start={block.start}>{items}</ol>;
    }
    case "table":
      return (
        <div class="wide-table" tabIndex={0} role="group" aria-label="Table">
          <table>
            <thead>
              <tr>
                {block.head.map((cell, index) => (
                  <th key={index} scope="col">
                    {inline(cell)}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {block.rows.map((row, index) => (
                <tr key={index}>
                  {block.head.map((_, column) => (
                    <td key={column}>{inline(row[column] ?? "")}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      );
    case "rule":
      return <hr />;
  }
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
