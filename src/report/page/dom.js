// Elements. All content becomes a text node or an attribute here; nothing is ever parsed as markup, so that the text of a model
// stays text.

/** @typedef {Node | string | number | null | undefined | false} Child */

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/**
 * Sets attributes. `class`, `data` (an object), `on` (listeners by event) and booleans are supported; a link may
 * only lead to a place in this page.
 * @param {Element} element
 * @param {Object<string, any>} attributes
 */
function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "data") {
      for (const [key, text] of Object.entries(value)) element.dataset[key] = String(text);
    } else if (name.startsWith("on") || name === "style") {
      throw new Error(`the page sets no attribute "${name}"`);
    } else if (name === "href" && !String(value).startsWith("#")) {
      throw new Error("the page links to places in itself only");
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
}

/** @param {Element} parent @param {any[]} children nested lists are flattened */
function appendAll(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child));
  }
}

/**
 * An HTML element.
 * @param {string} tag
 * @param {Object<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElement}
 */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  appendAll(element, children);
  return element;
}

/**
 * An SVG element.
 * @param {string} tag
 * @param {Object<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {SVGElement}
 */
function svg(tag, attributes = {}, ...children) {
  const element = /** @type {SVGElement} */ (document.createElementNS(SVG_NAMESPACE, tag));
  setAttributes(element, attributes);
  appendAll(element, children);
  return element;
}

/** @param {string} label @param {() => void} action @param {Object<string, any>} [attributes] */
function button(label, action, attributes = {}) {
  return el("button", { type: "button", ...attributes, on: { click: action } }, label);
}

/** The reader's settings in parts of the page that are redrawn, such as a table's order or a selection. */
const rememberedStates = new Map();

/**
 * The state of this name, created on first use.
 * @template T
 * @param {string} key
 * @param {T} initial
 * @returns {T}
 */
function remembered(key, initial) {
  if (!rememberedStates.has(key)) rememberedStates.set(key, initial);
  return rememberedStates.get(key);
}

/**
 * Redraws the content of a container and restores what the reader would miss: the focus, scroll positions
 * and open folds. Elements are recognised by `data-key`.
 * @param {HTMLElement} container
 * @param {Node[]} nodes
 */
function redraw(container, nodes) {
  const focused = document.activeElement;
  const focusKey = focused instanceof Element && container.contains(focused) ? focused.getAttribute("data-key") : null;
  /** @type {Map<string, {left: number, top: number, open: boolean}>} */
  const before = new Map();
  for (const element of container.querySelectorAll("[data-key]")) {
    before.set(element.getAttribute("data-key") ?? "", {
      left: element.scrollLeft,
      top: element.scrollTop,
      open: element instanceof HTMLDetailsElement && element.open,
    });
  }
  container.replaceChildren(...nodes);
  for (const element of container.querySelectorAll("[data-key]")) {
    const key = element.getAttribute("data-key") ?? "";
    const state = before.get(key);
    if (!state) continue;
    if (element instanceof HTMLDetailsElement) element.open = state.open;
    if (state.left) element.scrollLeft = state.left;
    if (state.top) element.scrollTop = state.top;
    if (key === focusKey) /** @type {HTMLElement} */ (element).focus({ preventScroll: true });
  }
}

/**
 * A part that may be wider than the page and scrolls on its own; reachable by keyboard.
 * @param {string} key
 * @param {string} label
 * @param {...Child} children
 */
function scroller(key, label, ...children) {
  return el("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": label, data: { key } }, ...children);
}

/**
 * A button that copies a text and confirms it.
 * @param {string} text
 * @param {string} what a name of the text, for screen readers
 */
function copyButton(text, what) {
  const copy = button("Copy", async () => {
    let copied = false;
    try {
      await navigator.clipboard.writeText(text);
      copied = true;
    } catch {
      copied = copyBySelection(text);
    }
    copy.textContent = copied ? "Copied" : "Not allowed";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  }, { class: "small", "aria-label": `Copy ${what}`, data: { key: `copy ${what}` } });
  return copy;
}

/** The old way to copy, for browsers that forbid files the clipboard. @param {string} text */
function copyBySelection(text) {
  const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
  /** @type {HTMLTextAreaElement} */ (area).value = text;
  document.body.append(area);
  /** @type {HTMLTextAreaElement} */ (area).select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}
