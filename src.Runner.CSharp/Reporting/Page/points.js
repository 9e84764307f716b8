// Panels of values with intervals, and of matrices in colours.

class PointView {
  constructor(host, panel, figure, id) {
    Object.assign(this, { host, panel, figure, id, zoom: null });
    this.svg = shape("svg", { class: "live", role: "img", tabindex: 0, "aria-label": host.querySelector("svg").getAttribute("aria-label") });
    host.append(this.svg);
    this.readOut = makeReadOut(host);
    this.names = [...new Set(panel.points.map(point => point.name))];
    this.svg.addEventListener("pointermove", event => this.read(this.rowAt(event), false));
    this.svg.addEventListener("pointerdown", event => this.read(this.rowAt(event), false));
    for (const name of ["pointerleave", "blur"]) this.svg.addEventListener(name, () => this.readOut.hide());
    this.svg.addEventListener("keydown", event => {
      const move = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (event.key === "Escape") this.readOut.hide();
      if (!move) return;
      event.preventDefault();
      this.read(Math.min(this.rows.length - 1, Math.max(0, (this.row ?? (move > 0 ? -1 : this.rows.length)) + move)), true);
    });
  }

  get shown() { return this.panel.points.filter(point => point.name === point.label || !this.figure.off.has(point.name)); }

  draw() {
    const width = this.host.clientWidth, panel = this.panel, shown = this.shown, svg = this.svg;
    if (width < 40) return;
    // Rows keep their places when an arm is off.
    this.rows = [...new Set(panel.points.map(point => point.label))];
    const log = this.figure.logX ?? panel.value.log, several = panel.points.length > this.rows.length;
    const height = 46 + 30 + 16 + Math.max(2, this.rows.length) * (several ? 44 : 36);
    const column = Math.min(width * 0.4, Math.max(0, ...this.rows.map(row => estimate(row, LABEL))) + 4);
    const box = { left: column + 12, right: width - 16, top: (panel.title ? 30 : 12) + (panel.marks.length ? 16 : 0), bottom: height - 46 };
    let low = Infinity, high = -Infinity;
    for (const value of [...shown.flatMap(point => [point.value, point.lower, point.upper]), ...panel.marks.map(mark => mark.value)]) {
      const at = value === null ? NaN : log ? Math.log10(value) : value;
      if (Number.isFinite(at)) { low = Math.min(low, at); high = Math.max(high, at); }
    }
    const x = makeScale(...roomy(low, high, log, 0.06), log, box.left, box.right, width / 95), y = row => box.top + (row + 0.5) / this.rows.length * (box.bottom - box.top);
    this.box = box;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    drawFrame(svg, panel, x, { ticks: [] }, box, { x: panel.value.label, y: "", gridX: true });
    for (const mark of panel.marks) {
      const at = x.of(mark.value), half = Math.min(estimate(mark.label, TICK), width - 4) / 2;
      svg.append(shape("line", { x1: at, x2: at, y1: box.top, y2: box.bottom, stroke: "var(--muted)", "stroke-width": 1.2, "stroke-dasharray": "2 4" }));
      svg.append(shape("text", { x: Math.min(width - half - 2, Math.max(half + 2, at)), y: box.top - 5, "text-anchor": "middle", "font-size": TICK, fill: "var(--muted)" }, mark.label));
    }
    this.rows.forEach((row, i) => {
      const lines = this.lines(row, column);
      lines.forEach((line, k) => svg.append(shape("text", { x: box.left - 10, y: y(i) + 4 + 15 * (k - (lines.length - 1) / 2), "text-anchor": "end", "font-size": LABEL, fill: "var(--ink)" }, line)));
    });
    for (const point of shown) {
      const which = this.names.indexOf(point.name), dodge = this.names.length > 1 ? 0.5 * (which / (this.names.length - 1) - 0.5) : 0;
      const at = y(this.rows.indexOf(point.label) + dodge), colour = seriesColour(point.series), [value, from, to] = [point.value, point.lower, point.upper].map(v => v === null ? NaN : x.of(v));
      if (to > from) svg.append(shape("line", { x1: from, x2: to, y1: at, y2: at, stroke: colour, "stroke-width": 2 }));
      if (Number.isFinite(value)) svg.append(this.marker(which % 4, value, at, colour));
    }
  }

  marker(kind, x, y, fill) {
    const corners = [null, [[-4, -4], [4, -4], [4, 4], [-4, 4]], [[0, -5.5], [5.5, 0], [0, 5.5], [-5.5, 0]], [[0, -5], [5, 4], [-5, 4]]][kind];
    return corners ? shape("polygon", { points: corners.map(([dx, dy]) => `${x + dx},${y + dy}`).join(" "), fill }) : shape("circle", { cx: x, cy: y, r: 4.5, fill });
  }

  lines(text, width) {
    const lines = [];
    for (const word of text.split(" "))
      if (lines.length && estimate(lines.at(-1) + " " + word, LABEL) <= width) lines[lines.length - 1] += " " + word;
      else lines.push(word);
    return lines;
  }

  rowAt(event) {
    const box = this.svg.getBoundingClientRect(), share = (event.clientY - box.top - this.box.top) / (this.box.bottom - this.box.top);
    return share >= 0 && share < 1 ? Math.floor(share * this.rows.length) : null;
  }

  read(row, aloud) {
    this.row = row;
    const points = row === null ? [] : this.shown.filter(point => point.label === this.rows[row]);
    if (!points.length) return this.readOut.hide();
    const { box } = this;
    this.readOut.show(box.left, box.top + (row + 0.5) / this.rows.length * (box.bottom - box.top), this.rows[row],
      points.map(point => [seriesColour(point.series), point.name === point.label ? "" : point.name, show(point.value), point.lower === null ? "" : `${show(point.lower)} to ${show(point.upper)}`]), aloud);
  }

  zoomTo() { }
}

/** A matrix stays the picture that it is; its cells are read out. */
class HeatView {
  constructor(host, panel) {
    Object.assign(this, { host, panel, zoom: null });
    this.readOut = makeReadOut(host);
    for (const svg of host.querySelectorAll("svg")) {
      const cells = svg.querySelector(".cells");
      svg.setAttribute("tabindex", 0);
      const at = event => {
        const box = cells.getBoundingClientRect(), x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
        if (x < 0 || x >= 1 || y < 0 || y >= 1) return this.readOut.hide();
        this.read(cells, Math.floor(y * panel.rows.length), Math.floor(x * panel.columns.length), false);
      };
      svg.addEventListener("pointermove", at);
      svg.addEventListener("pointerdown", at);
      for (const name of ["pointerleave", "blur"]) svg.addEventListener(name, () => this.readOut.hide());
      svg.addEventListener("keydown", event => {
        const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (event.key === "Escape") this.readOut.hide();
        if (!move) return;
        event.preventDefault();
        const [row, column] = this.place ? [this.place[0] + move[0], this.place[1] + move[1]] : [0, 0];
        this.read(cells, Math.min(panel.rows.length - 1, Math.max(0, row)), Math.min(panel.columns.length - 1, Math.max(0, column)), true);
      });
    }
  }

  read(cells, row, column, aloud) {
    this.place = [row, column];
    const { panel } = this, box = cells.getBoundingClientRect(), own = this.host.getBoundingClientRect();
    this.readOut.show(box.left - own.left + (column + 0.5) / panel.columns.length * box.width, box.top - own.top + (row + 0.5) / panel.rows.length * box.height,
      show(panel.values[row * panel.columns.length + column]) + " " + panel.label,
      [[null, panel.rowLabel, panel.rows[row], ""], [null, panel.columnLabel, panel.columns[column], ""]], aloud);
  }

  draw() { }
  zoomTo() { }
}
