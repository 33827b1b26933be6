// xterm.js under a policy without 'unsafe-inline' styles: a style element it makes becomes a constructed style sheet, a
// style attribute of a span becomes properties (CSSOM); the policy allows both. Its own documentOverride does not reach
// all of it, and Preact makes its elements another way (createElementNS).

const createElement = Document.prototype.createElement;

export function allowStyles(): void {
  document.createElement = (name: string) => {
    if (name === "style") return standIn();
    const element: HTMLElement = createElement.call(document, name);
    if (name === "span") {
      element.setAttribute = (attribute: string, value: string) => {
        if (attribute === "style") element.style.cssText = value;
        else Element.prototype.setAttribute.call(element, attribute, value);
      };
    }
    return element;
  };
}

function standIn(): HTMLElement {
  const element: HTMLElement = createElement.call(document, "i");
  element.hidden = true;
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);
  Object.defineProperty(element, "textContent", { set: (css: string) => sheet.replaceSync(css) });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((each) => each !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}
