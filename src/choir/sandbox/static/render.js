// A model's text as nodes: paragraphs, fenced code, `code` and **bold**. Nothing in it can become markup.
export function render(text) {
  const nodes = [];
  text.split(/^```[^\n]*\n?/m).forEach((part, index) => {
    if (index % 2) {
      const pre = document.createElement("pre");
      pre.append(Object.assign(document.createElement("code"), { textContent: part.replace(/\n$/, "") }));
      nodes.push(pre);
      return;
    }
    for (const paragraph of part.trim().split(/\n{2,}/)) {
      if (!paragraph) continue;
      const p = document.createElement("p");
      p.append(...inline(paragraph));
      nodes.push(p);
    }
  });
  return nodes;
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).filter(Boolean).map((piece) => {
    if (piece.length > 2 && piece.startsWith("`")) return Object.assign(document.createElement("code"), { textContent: piece.slice(1, -1) });
    if (piece.length > 4 && piece.startsWith("**")) return Object.assign(document.createElement("strong"), { textContent: piece.slice(2, -2) });
    return document.createTextNode(piece);
  });
}
