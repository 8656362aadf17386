// Pieces of the page. Text of the data only ever goes through textContent.
const SVG = "http://www.w3.org/2000/svg";

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Text of the data: its direction is its own and cannot turn what stands around it.
const words = (text, tag = "span", name = "u") => el(tag, { class: name, dir: "auto", text });

function glyph(shape) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `glyph k${shape}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#g${shape}`);
  svg.append(use);
  return svg;
}

// A thumbnail from the sheet, its longer edge `size` px; null where the point has none.
function thumb(page, p, size) {
  const { sprite } = page.facts;
  const tile = page.data.tile[p];
  if (tile === NOWHERE) return null;
  const width = page.data.size[2 * tile], height = page.data.size[2 * tile + 1];
  const scale = size / Math.max(width, height);
  const step = sprite.side * scale;
  const style =
    `width:${width * scale}px;height:${height * scale}px;` +
    `background-size:${sprite.columns * step}px ${sprite.lines * step}px;` +
    `background-position:-${(tile % sprite.columns) * step}px -${Math.floor(tile / sprite.columns) * step}px`;
  const name = `picture of ${page.data.ids[p]}`;
  return el("span", { class: sprite.pixelated ? "thumb crisp" : "thumb", style, role: "img", "aria-label": name });
}

// The text or the cells of a point; `limit` cuts the one in characters and the other in number.
function content(page, p, limit = Infinity, number = 6) {
  const value = page.data.texts[p];
  if (!value || !value.length) return null;
  if (page.facts.kind === "table" || Array.isArray(value[0])) return cells(value.slice(0, number));
  const [text, start, end] = value;
  if (text.length > limit || start === undefined) {
    return words(text.length > limit ? text.slice(0, limit - 1).replace(/[\ud800-\udbff]$/, "") + "…" : text);
  }
  const box = words("");
  box.append(text.slice(0, start), el("mark", { text: text.slice(start, end) }), text.slice(end));
  return box;
}

// Column and value, the most unusual first and marked.
function cells(values) {
  const list = el("dl", { class: "cells" });
  values.forEach(([name, value, odd], i) => {
    const title = odd === null ? null : `unusualness ${short(odd)}`;
    list.append(el("div", { class: i === 0 ? "odd" : null, title }, words(name, "dt"), " ", words(value, "dd")));
  });
  return list;
}

// "given → suggested", the given one struck out when another is suggested.
function change(given, suggested) {
  const box = el("span", { class: "change" });
  if (given === null) return box;
  if (suggested === null) box.append(words(given));
  else box.append(words(given, "s"), " → ", words(suggested, "b"));
  return box;
}

// A number short enough for a label: three decimals, or four digits where it is large or tiny.
function short(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size >= 10000 || size < 0.001) ? value.toPrecision(3) : value.toFixed(size >= 100 ? 1 : 3);
  return text.replace("-", "−");
}

// A number of an axis that spans `span`: as many decimals as tell its hundredths apart, no trailing zeros.
function tidy(value, span, round = Math.round) {
  const digits = Math.min(12, Math.max(0, 2 - Math.floor(Math.log10(span || 1))));
  const step = round(value * 10 ** digits) / 10 ** digits;
  const text = Math.abs(step) >= 1e6 ? step.toPrecision(3) : step.toFixed(digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  return text.replace(/^-(?=0$)/, "").replace("-", "−");
}

const number = (value) => value.toLocaleString("en-US");
const plural = (value, one, many) => `${number(value)} ${value === 1 ? one : (many ?? one + "s")}`;
