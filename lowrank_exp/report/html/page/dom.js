// Elements of the page. Every text goes in as a text node, so that nothing in a name is ever markup.

const SVG = "http://www.w3.org/2000/svg";

// h("p", {class: "quiet", onclick: go}, "text", child): an HTML element; null and false among the children are left out.
function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

// The same of SVG.
function g(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(2)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

// A row of buttons of which one is pressed; `choose` is called with its value.
function choice(label, options, chosen, choose) {
  if (options.length < 2) return null;
  const buttons = options.map(([value, text]) =>
    h("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => choose(value) }, text));
  return h("div", { class: "choice", role: "group", "aria-label": label }, h("span", { class: "label" }, label), buttons);
}

// A list to choose from, where names are long or many.
function listed(label, options, chosen, choose) {
  const select = h("select", { onchange: (event) => choose(event.target.value) },
    options.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text)));
  return h("label", { class: "listed" }, h("span", { class: "label" }, label), select);
}

// Say something that has happened, to the eye and to a screen reader.
function say(text) {
  document.getElementById("said").textContent = text;
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "unseen" }, text); // where the clipboard is not given to a file
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`${what} copied`);
}

function copyButton(text, what, label = "Copy") {
  return h("button", { type: "button", class: "copy", onclick: () => copy(text, what) }, label);
}
