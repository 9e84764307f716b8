// What the views of a page share: elements, numbers, axes and moving averages. The scripts of a page are one function, in this order:
// drawing, curves, points, figures, live. Nothing is loaded from anywhere.

const TICK = 12, LABEL = 12.5;

function shape(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  made.append(...children);
  return made;
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** The width that a text of a size takes in common sans-serif fonts, about. */
const estimate = (text, size) => text.length * size * 0.56;

const seriesColour = (series, colours = 10) => `var(--s${((series % colours) + colours) % colours})`;

/** A number as people read it, with about so many significant digits. */
function show(value, digits = 4) {
  if (value === null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (!Number.isFinite(value) || size < 1e-4 || size >= 1e9) return value.toExponential(digits - 1).replace("-", "−");
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).replace("-", "−");
}

/** A place on an axis: the number whole where it is. */
const showPlace = value => Number.isInteger(value) && Math.abs(value) < 1e15 ? value.toLocaleString("en") : show(value, 5).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");

/** A number in the least space: 12k, 1.5M, 0.02, 1e−7. */
function tickLabel(value, step) {
  const size = Math.abs(value);
  if (size < step * 1e-6) return "0";
  if (size < 1e-4) return value.toExponential(2).replace(/\.?0*e/, "e").replace(/-/g, "−");
  const [unit, suffix] = size >= 1e12 ? [1e12, "T"] : size >= 1e9 ? [1e9, "B"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
  const decimals = Math.min(8, Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9)));
  return (value / unit).toFixed(decimals).replace("-", "−") + suffix;
}

function linearTicks(low, high, count) {
  const raw = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(step => step >= raw * 0.999) || 10 * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && ticks.length < 100; i++) ticks.push([i * step, tickLabel(i * step, step)]);
  return ticks;
}

function logTicks(low, high, count) {
  const decades = high - low, digits = decades < 0.7 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : decades < 2 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil(decades / Math.max(1, count))), ticks = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++)
    for (const digit of digits) {
      const value = digit * 10 ** power, place = Math.log10(value);
      if (place >= low - 1e-9 && place <= high + 1e-9 && (digits.length > 1 || power % stride === 0)) ticks.push([place, tickLabel(value, value)]);
    }
  return ticks.length >= 2 ? ticks
    : linearTicks(10 ** low, 10 ** high, count).filter(tick => tick[0] > 0).map(tick => [Math.log10(tick[0]), tick[1]]);
}

/** An axis over [low, high] (positions: logarithms on a logarithmic axis) onto pixels from one end to the other. */
function makeScale(low, high, log, from, to, count) {
  const at = value => log ? Math.log10(value) : value;
  const pixel = place => from + (place - low) / (high - low) * (to - from);
  const invert = x => { const place = low + (x - from) / (to - from) * (high - low); return log ? 10 ** place : place; };
  return { low, high, log, at, pixel, of: value => pixel(at(value)), invert, ticks: log ? logTicks(low, high, count) : linearTicks(low, high, count) };
}

/** A range that can be drawn: never empty, with a margin of a share of it. */
function roomy(low, high, log, margin) {
  if (!(low <= high)) [low, high] = [0, 1];
  if (high - low < Math.max(1e-9, Math.max(Math.abs(low), Math.abs(high)) * 1e-6)) {
    const half = log ? 0.5 : Math.max(Math.abs(low) * 0.05, 0.5);
    [low, high] = [low - half, high + half];
  }
  const more = (high - low) * margin;
  return [low - more, high + more];
}

/** The exponential moving average with its start corrected; each value stands for `each` steps, a missing one does not count. */
function average(values, decay, each) {
  const kept = decay ** each, shown = new Float64Array(values.length);
  let mean = 0, weight = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (Number.isFinite(value)) {
      mean = kept * mean + (1 - kept) * value;
      weight = kept * weight + (1 - kept);
      shown[i] = weight > 0 ? mean / weight : value;
    } else shown[i] = NaN;
  }
  return shown;
}

/** The index of the first value that is not below another, in a rising list. */
function firstFrom(values, value) {
  let low = 0, high = values.length;
  while (low < high) { const middle = (low + high) >> 1; if (values[middle] < value) low = middle + 1; else high = middle; }
  return low;
}

/** Texts, grid and frame of a panel. */
function drawFrame(svg, panel, x, y, box, texts) {
  const text = (at, from, words, anchor, role, more = {}) =>
    svg.append(shape("text", { x: at.toFixed(1), y: from.toFixed(1), "text-anchor": anchor, "font-size": TICK, fill: `var(--${role})`, ...more }, words));
  for (const [place, words] of y.ticks) {
    const at = y.pixel(place);
    if (texts.gridY) svg.append(shape("line", { x1: box.left, x2: box.right, y1: at, y2: at, stroke: "var(--grid)" }));
    if (texts.gridY) text(box.left - 8, at + 4, words, "end", "muted");
  }
  let right = -Infinity;
  for (const [place, words] of x.ticks) {
    const at = x.pixel(place), half = estimate(words, TICK) / 2;
    if (texts.gridX) svg.append(shape("line", { x1: at, x2: at, y1: box.top, y2: box.bottom, stroke: "var(--grid)" }));
    svg.append(shape("line", { x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4, stroke: "var(--muted)" }));
    if (at - half > right + 6) { text(at, box.bottom + 18, words, "middle", "muted"); right = at + half; }
  }
  svg.append(shape("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, stroke: "var(--muted)" }));
  text((box.left + box.right) / 2, box.bottom + 38, texts.x, "middle", "ink", { "font-size": LABEL });
  if (texts.y) {
    const middle = (box.top + box.bottom) / 2;
    text(14, middle, texts.y, "middle", "ink", { "font-size": LABEL, transform: `rotate(-90 14 ${middle})` });
  }
  // A long title begins further to the left.
  if (panel.title) text(Math.min(box.left, Math.max(0, box.right + 12 - estimate(panel.title, 14.5))), 17, panel.title, "start", "ink", { "font-size": 13.5, "font-weight": 600 });
}

/** A text in a rim of the paper's colour, readable on curves. */
const overPlot = (x, y, words, anchor) => shape("text", {
  x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor, "font-size": TICK, fill: "var(--muted)", "paint-order": "stroke",
  stroke: "var(--paper)", "stroke-width": 4, "stroke-linejoin": "round" }, words);

/** A box beside a place in a panel that says what is there; rows are [colour or null, name, value, note]. */
function makeReadOut(host) {
  const box = element("div", { className: "readout", hidden: true }), said = element("div", { className: "said" });
  said.setAttribute("aria-live", "polite");
  host.append(box, said);
  return {
    hide() { box.hidden = true; },
    show(x, y, heading, rows, aloud) {
      box.replaceChildren(element("strong", { textContent: heading }));
      for (const [colour, name, value, note] of rows) {
        const mark = element("i", {});
        if (colour) mark.style.background = colour; else mark.className = "none";
        box.append(element("div", {}, mark, element("span", { textContent: name }), element("b", { textContent: value }), element("small", { textContent: note || "" })));
      }
      box.hidden = false;
      const width = host.clientWidth, own = box.offsetWidth, left = x + 14 + own <= width ? x + 14 : Math.max(0, x - 14 - own);
      box.style.left = `${left}px`;
      box.style.top = `${Math.max(0, Math.min(y - box.offsetHeight / 2, host.clientHeight - box.offsetHeight))}px`;
      if (aloud) said.textContent = [heading, ...rows.map(row => `${row[1]} ${row[2]}`)].join("; ");
    },
  };
}
