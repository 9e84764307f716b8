// Panels of curves: drawn for the width there is, read by pointer, finger or keys, zoomed by dragging.

const MOST_LIVE = 4000, MOST_ROWS = 16;

/** A curve of the page's data, with its values as numbers. */
function readCurve(given) {
  const numbers = list => Float64Array.from(list || [], value => value === null ? NaN : value);
  const x = Array.isArray(given.x) ? numbers(given.x) : Float64Array.from({ length: given.x.count }, (_, i) => given.x.from + i * given.x.step);
  return { ...given, x, y: numbers(given.y), lower: numbers(given.lower), upper: numbers(given.upper), each: given.each || 1, waiting: [] };
}

/** Adds points to a curve. One that may be smoothed keeps at most MOST_LIVE of them: then each stands for twice as many steps. */
function extendCurve(curve, xs, ys) {
  const x = Array.from(curve.x), y = Array.from(curve.y);
  const mean = values => { const finite = values.filter(Number.isFinite); return finite.length ? finite.reduce((a, b) => a + b) / finite.length : NaN; };
  for (let i = 0; i < xs.length; i++) {
    const value = ys[i] === null ? NaN : ys[i];
    if (curve.beta === undefined) { x.push(xs[i]); y.push(value); continue; }
    curve.waiting.push([xs[i], value]);
    if (curve.waiting.length < curve.each) continue;
    x.push(mean(curve.waiting.map(point => point[0])));
    y.push(mean(curve.waiting.map(point => point[1])));
    curve.waiting = [];
    if (x.length >= MOST_LIVE) {
      for (let k = 0; 2 * k + 1 < x.length; k++) { x[k] = mean([x[2 * k], x[2 * k + 1]]); y[k] = mean([y[2 * k], y[2 * k + 1]]); }
      x.length = y.length = x.length >> 1;
      curve.each *= 2;
    }
  }
  curve.x = Float64Array.from(x);
  curve.y = Float64Array.from(y);
  curve.memory = undefined;
}

/** What is shown of a curve at a smoothing, and the values of single steps behind it (null: none). */
function valuesOf(curve, beta) {
  const decay = curve.beta === undefined ? 0 : beta;
  if (!curve.memory || curve.memory.decay !== decay) {
    const form = values => curve.exp ? values.map(Math.exp) : values;
    const plain = form(curve.y);
    curve.memory = {
      decay, plain: decay > 0 ? plain : null, shown: decay > 0 ? form(average(curve.y, decay, curve.each)) : plain,
      lower: form(curve.lower), upper: form(curve.upper),
    };
  }
  return curve.memory;
}

class CurveView {
  constructor(host, panel, figure, id) {
    Object.assign(this, { host, panel, figure, id, zoom: null, pointers: new Map() });
    panel.curves = panel.curves.map(readCurve);
    this.svg = shape("svg", { class: "live", role: "img", tabindex: 0, "aria-label": host.querySelector("svg").getAttribute("aria-label") });
    host.append(this.svg);
    this.readOut = makeReadOut(host);
    this.listen();
  }

  get shown() { return this.panel.curves.filter(curve => !this.figure.off.has(curve.name)); }
  get logX() { return this.figure.logX ?? this.panel.x.log; }
  get logY() { return this.figure.logY ?? this.panel.y.log; }
  beta(curve) { return this.figure.beta ?? curve.beta; }

  /** The range of x over what is shown, in positions. */
  rangeX() {
    let low = Infinity, high = -Infinity;
    const see = value => { const at = this.logX ? Math.log10(value) : value; if (Number.isFinite(at)) { low = Math.min(low, at); high = Math.max(high, at); } };
    for (const curve of this.shown) curve.x.forEach(see);
    for (const mark of this.panel.marks) if (mark.vertical) see(mark.value);
    return roomy(low, high, this.logX, 0);
  }

  /** The range of y over what is shown between two x; of values behind a smoothed curve the outermost hundredth does not count. */
  rangeY(from, to) {
    let low = Infinity, high = -Infinity;
    const at = value => this.logY ? Math.log10(value) : value;
    const see = value => { const place = at(value); if (Number.isFinite(place)) { low = Math.min(low, place); high = Math.max(high, place); } };
    for (const curve of this.shown) {
      const first = firstFrom(curve.x, from), last = firstFrom(curve.x, to + Math.abs(to) * 1e-12), values = valuesOf(curve, this.beta(curve));
      for (const list of [values.shown, values.lower, values.upper]) list.subarray(first, last + 1).forEach(see);
      if (values.plain) {
        const sorted = values.plain.slice(first, last + 1).filter(Number.isFinite).sort(), cut = Math.floor(sorted.length / 100);
        if (sorted.length) { see(sorted[cut]); see(sorted[sorted.length - 1 - cut]); }
      }
    }
    if (!this.zoom) for (const mark of this.panel.marks) if (!mark.vertical) see(mark.value);
    return roomy(low, high, this.logY, 0.06);
  }

  draw() {
    const width = this.host.clientWidth, height = this.figure.lone ? Math.min(400, Math.max(270, width * 0.52)) : Math.min(330, Math.max(270, width * 0.7));
    if (width < 40) return;
    const svg = this.svg, at = value => this.logX ? Math.log10(value) : value, atY = value => this.logY ? Math.log10(value) : value;
    const zoomX = this.zoom && this.zoom.x.map(at), zoomY = this.zoom && this.zoom.y && this.zoom.y.map(atY);
    const [lowX, highX] = zoomX && zoomX.every(Number.isFinite) && zoomX[0] < zoomX[1] ? zoomX : this.rangeX();
    const [lowY, highY] = zoomY && zoomY.every(Number.isFinite) && zoomY[0] < zoomY[1] ? zoomY
      : this.rangeY(this.logX ? 10 ** lowX : lowX, this.logX ? 10 ** highX : highX);
    const box = { left: 0, right: width - 16, top: this.panel.title ? 30 : 12, bottom: height - 46 };
    const y = makeScale(lowY, highY, this.logY, box.bottom, box.top, height / 50);
    box.left = Math.max(0, ...y.ticks.map(tick => estimate(tick[1], TICK))) + 34;
    const x = makeScale(lowX, highX, this.logX, box.left, box.right, width / 85);
    Object.assign(this, { box, x, y });
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren(shape("clipPath", { id: this.id }, shape("rect", { x: box.left, y: box.top - 2, width: box.right - box.left, height: box.bottom - box.top + 4 })));
    drawFrame(svg, this.panel, x, y, box, { x: this.panel.x.label, y: this.panel.y.label, gridY: true });
    const plot = shape("g", { "clip-path": `url(#${this.id})`, fill: "none", "stroke-linejoin": "round", "stroke-linecap": "round" });
    for (const curve of this.shown) this.drawCurve(plot, curve);
    this.drawMarks(plot);
    this.cursor = shape("g", {});
    svg.append(plot, this.cursor);
  }

  drawCurve(plot, curve) {
    const { x, y } = this, colour = seriesColour(curve.series), values = valuesOf(curve, this.beta(curve));
    const first = Math.max(0, firstFrom(curve.x, x.invert(this.box.left)) - 1), last = Math.min(curve.x.length, firstFrom(curve.x, x.invert(this.box.right)) + 2);
    if (values.lower.length) {
      let up = "", down = "";
      for (let i = first; i < last; i++) {
        const px = x.of(curve.x[i]), low = y.of(values.lower[i]), high = y.of(values.upper[i]);
        if (![px, low, high].every(Number.isFinite)) continue;
        up += `${up ? "L" : "M"}${px.toFixed(1)} ${high.toFixed(1)}`;
        down = `L${px.toFixed(1)} ${low.toFixed(1)}` + down;
      }
      if (up) plot.append(shape("path", { d: up + down + "Z", fill: colour, "fill-opacity": 0.18 }));
    }
    if (values.plain) plot.append(shape("path", { d: this.path(curve.x, values.plain, first, last), stroke: colour, "stroke-width": 1, "stroke-opacity": 0.25 }));
    const line = { d: this.path(curve.x, values.shown, first, last), stroke: colour, "stroke-width": 2 };
    plot.append(shape("path", curve.dashed ? { ...line, "stroke-dasharray": "5 4", "stroke-linecap": "butt" } : line));
  }

  /** A line through points; where several share a column of pixels, through the first, least, largest and last of them. */
  path(xs, ys, first, last) {
    const { x, y, box } = this, dense = last - first > 3 * (box.right - box.left);
    let line = "", open = 0, column = NaN, held = [];
    const put = point => { line += `${open ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`; open++; };
    const flush = () => {
      if (held.length > 3) {
        let low = 0, high = 0;
        held.forEach((point, i) => { if (point[1] < held[low][1]) low = i; if (point[1] > held[high][1]) high = i; });
        held = [...new Set([0, Math.min(low, high), Math.max(low, high), held.length - 1])].map(i => held[i]);
      }
      held.forEach(put);
      held = [];
    };
    const end = () => { flush(); if (open === 1) line += "h0"; open = 0; column = NaN; };
    for (let i = first; i < last; i++) {
      const px = x.of(xs[i]), py = y.of(ys[i]);
      if (!Number.isFinite(px) || !Number.isFinite(py)) { end(); continue; }
      if (!dense || Math.round(px) !== column) { flush(); column = Math.round(px); }
      held.push([px, Math.max(-1e5, Math.min(1e5, py))]);
    }
    end();
    return line;
  }

  drawMarks(plot) {
    const { x, y, box } = this, line = { stroke: "var(--muted)", "stroke-width": 1.2, "stroke-dasharray": "2 4" };
    for (const mark of this.panel.marks) {
      const at = mark.vertical ? x.of(mark.value) : y.of(mark.value);
      if (!Number.isFinite(at) || (mark.vertical ? at < box.left || at > box.right : at < box.top || at > box.bottom)) continue;
      if (mark.vertical) {
        const left = at > (box.left + box.right) * 0.6;
        plot.append(shape("line", { x1: at, x2: at, y1: box.top, y2: box.bottom, ...line }), overPlot(at + (left ? -5 : 5), box.top + 14, mark.label, left ? "end" : "start"));
      } else {
        const low = at > (box.top + box.bottom) / 2 && at + 18 < box.bottom;
        plot.append(shape("line", { x1: box.left, x2: box.right, y1: at, y2: at, ...line }), overPlot(box.right - 5, at + (low ? 14 : -5), mark.label, "end"));
      }
    }
  }

  /** Shows the values nearest to a place on the x axis, in pixels. */
  read(pixel, aloud) {
    const { x, y, box } = this, nearest = [];
    const value = x.invert(Math.min(box.right, Math.max(box.left, pixel)));
    for (const curve of this.shown) {
      const values = valuesOf(curve, this.beta(curve));
      let best = -1;
      // Around a gap the nearest point that has a value is looked for.
      const place = firstFrom(curve.x, value);
      for (let step = 0; best < 0 && step < 50; step++)
        for (const i of step ? [place - step, place + step] : [place])
          if (i >= 0 && i < curve.x.length && Number.isFinite(x.of(curve.x[i])) && Number.isFinite(y.of(values.shown[i]))
            && (best < 0 || Math.abs(x.of(curve.x[i]) - pixel) < Math.abs(x.of(curve.x[best]) - pixel))) best = i;
      if (place > 0 && best === place && Number.isFinite(y.of(values.shown[place - 1])) && Math.abs(x.of(curve.x[place - 1]) - pixel) < Math.abs(x.of(curve.x[best]) - pixel)) best = place - 1;
      if (best >= 0) nearest.push({ curve, values, i: best, at: x.of(curve.x[best]) });
    }
    if (!nearest.length) return this.unread();
    const focus = nearest.reduce((a, b) => Math.abs(a.at - pixel) <= Math.abs(b.at - pixel) ? a : b);
    this.focus = { curve: focus.curve, i: focus.i };
    let found = nearest.filter(each => Math.abs(each.at - focus.at) <= 12);
    this.cursor.replaceChildren(shape("line", { x1: focus.at, x2: focus.at, y1: box.top, y2: box.bottom, stroke: "var(--muted)", "stroke-width": 1 }));
    for (const { curve, values, i, at } of found)
      this.cursor.append(shape("circle", { cx: at, cy: y.of(values.shown[i]), r: 3.5, fill: seriesColour(curve.series), stroke: "var(--paper)", "stroke-width": 1.5, "clip-path": `url(#${this.id})` }));
    const more = found.length - MOST_ROWS;
    if (more > 0) found = found.slice(0, MOST_ROWS);
    const rows = found.map(({ curve, values, i }) => [seriesColour(curve.series), curve.name, show(values.shown[i]),
      values.plain ? `raw ${show(values.plain[i])}` : values.lower.length ? `${show(values.lower[i])} to ${show(values.upper[i])}` : ""]);
    if (more > 0) rows.push([null, `and ${more} more`, "", ""]);
    this.readOut.show(focus.at, (box.top + box.bottom) / 2, `${this.panel.x.label} ${showPlace(focus.curve.x[focus.i])}`, rows, aloud);
  }

  unread() {
    this.cursor?.replaceChildren();
    this.readOut.hide();
  }

  zoomTo(zoom) {
    this.zoom = zoom;
    this.unread();
    this.draw();
    this.figure.zoomed();
  }

  listen() {
    const { svg, pointers } = this, place = event => { const box = svg.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    const touch = event => event.pointerType === "touch";
    svg.addEventListener("pointerdown", event => {
      if (event.button !== 0) return;
      const [x, y] = place(event);
      pointers.set(event.pointerId, { x, y, startX: x, startY: y, value: this.x.invert(x) });
      svg.setPointerCapture(event.pointerId);
      if (touch(event)) this.read(x, false);
    });
    svg.addEventListener("pointermove", event => {
      const [x, y] = place(event), pointer = pointers.get(event.pointerId);
      if (pointer) Object.assign(pointer, { x, y });
      if (touch(event) && pointers.size === 2) return this.pinch([...pointers.values()]);
      if (pointer && !touch(event) && Math.abs(x - pointer.startX) > 4) return this.select(pointer);
      this.read(x, false);
    });
    const end = event => {
      const pointer = pointers.get(event.pointerId);
      pointers.delete(event.pointerId);
      if (pointer && event.type === "pointerup" && !touch(event) && this.selection) this.zoomTo(this.selection);
      this.selection = null;
    };
    svg.addEventListener("pointerup", end);
    svg.addEventListener("pointercancel", end);
    svg.addEventListener("pointerleave", event => { if (!pointers.has(event.pointerId) && document.activeElement !== svg) this.unread(); });
    svg.addEventListener("dblclick", () => this.zoomTo(null));
    svg.addEventListener("blur", () => this.unread());
    svg.addEventListener("keydown", event => this.key(event));
  }

  /** The part that a dragging pointer has passed over: between two x, and between two y where it went up or down as well. */
  select(pointer) {
    const { x, y, box } = this, clampX = value => Math.min(box.right, Math.max(box.left, value)), clampY = value => Math.min(box.bottom, Math.max(box.top, value));
    const [left, right] = [clampX(pointer.startX), clampX(pointer.x)].sort((a, b) => a - b);
    const flat = Math.abs(pointer.y - pointer.startY) < 24;
    const [top, bottom] = flat ? [box.top, box.bottom] : [clampY(pointer.startY), clampY(pointer.y)].sort((a, b) => a - b);
    this.selection = right - left > 4 ? { x: [x.invert(left), x.invert(right)], y: flat ? null : [y.invert(bottom), y.invert(top)] } : null;
    this.readOut.hide();
    this.cursor.replaceChildren(shape("rect", { x: left, y: top, width: right - left, height: bottom - top, fill: "var(--link)", "fill-opacity": 0.15, stroke: "var(--link)" }));
  }

  /** Two fingers keep the x that they were put on. */
  pinch([a, b]) {
    const at = value => this.logX ? Math.log10(value) : value, from = value => this.logX ? 10 ** value : value;
    const { box } = this, slope = (at(b.value) - at(a.value)) / (b.x - a.x);
    if (!Number.isFinite(slope) || slope <= 0) return;
    this.zoomTo({ x: [from(at(a.value) + (box.left - a.x) * slope), from(at(a.value) + (box.right - a.x) * slope)], y: null });
  }

  key(event) {
    const { box, x } = this, curves = this.shown.filter(curve => curve.x.length);
    if (event.key === "Escape") return this.zoom ? this.zoomTo(null) : this.unread();
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 };
    if (!curves.length || !(event.key in steps || ["Home", "End", "+", "-"].includes(event.key))) return;
    event.preventDefault();
    if (event.key === "+" || event.key === "-") {
      const middle = this.focus ? x.of(this.focus.curve.x[this.focus.i]) : (box.left + box.right) / 2, half = (box.right - box.left) * (event.key === "+" ? 0.25 : 1);
      return this.zoomTo({ x: [x.invert(middle - half), x.invert(middle + half)], y: null });
    }
    const curve = this.focus && curves.includes(this.focus.curve) ? this.focus.curve : curves.reduce((a, b) => b.x.length > a.x.length ? b : a);
    const first = firstFrom(curve.x, x.invert(box.left) * (1 - 1e-12)), last = Math.max(first, firstFrom(curve.x, x.invert(box.right) * (1 + 1e-12)) - 1);
    // A key moves by about two pixels at least.
    const size = Math.max(1, Math.round((last - first) / ((box.right - box.left) / 2)));
    let i = event.key === "Home" ? first : event.key === "End" ? last : this.focus?.curve === curve ? this.focus.i + steps[event.key] * size : first;
    i = Math.min(last, Math.max(first, Math.min(curve.x.length - 1, i)));
    this.read(x.of(curve.x[i]), true);
    this.focus = { curve, i };
  }
}
