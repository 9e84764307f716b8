// Figures: their legends as switches, their tools, and what a reader has chosen, kept while the tab is open.

class Figure {
  constructor(root) {
    this.root = root;
    this.name = root.id;
    const given = JSON.parse(root.querySelector("script.data").textContent), hosts = [...root.querySelectorAll(".panels > div")];
    Object.assign(this, { off: new Set(), logX: null, logY: null, beta: null, lone: hosts.length === 1 });
    this.recall();
    const kinds = { curves: CurveView, points: PointView, heat: HeatView };
    this.views = given.panels.map((panel, i) => new kinds[panel.kind](hosts[i], panel, this, `clip-${this.name}-${i}`));
    hosts.forEach((host, i) => { if (given.panels[i].kind !== "heat") host.classList.add("alive"); });
    this.makeLegend();
    this.makeTools(given.panels);
    this.draw();
    let width = 0;
    new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; this.draw(); } }).observe(root);
  }

  get curves() { return this.views.filter(view => view instanceof CurveView); }

  draw() { for (const view of this.views) view.draw(); }

  change() {
    this.remember();
    this.draw();
  }

  makeLegend() {
    const buttons = new Map();
    const press = () => buttons.forEach((button, name) => button.setAttribute("aria-pressed", String(!this.off.has(name))));
    for (const item of this.root.querySelectorAll(".legend li")) {
      const name = item.textContent, button = element("button", { type: "button", title: "on or off; twice: this one alone" }, ...item.childNodes);
      button.addEventListener("click", event => {
        if (event.detail === 2) {
          const others = [...buttons.keys()].filter(other => other !== name);
          this.off = new Set(others.every(other => this.off.has(other)) ? [] : others);
        } else if (!this.off.delete(name)) this.off.add(name);
        press();
        this.change();
      });
      buttons.set(name, button);
      item.append(button);
    }
    for (const name of this.off) if (!buttons.has(name)) this.off.delete(name);
    press();
  }

  makeTools(panels) {
    const curves = panels.filter(panel => panel.kind === "curves"), points = panels.filter(panel => panel.kind === "points");
    if (!curves.length && !points.length) return;
    const tools = element("div", { className: "tools" });
    const toggle = (words, key, first) => {
      const button = element("button", { type: "button", textContent: words });
      const press = () => button.setAttribute("aria-pressed", String(this[key] ?? first));
      button.addEventListener("click", () => {
        this[key] = !(this[key] ?? first);
        // A range on one scale may not exist on the other.
        for (const view of this.views) view.zoom = null;
        press();
        this.change();
        this.zoomed();
      });
      press();
      tools.append(button);
    };
    toggle("log x", "logX", curves.length ? curves[0].x.log : points[0].value.log);
    if (curves.length) toggle("log y", "logY", curves[0].y.log);
    const raw = curves.flatMap(panel => panel.curves).find(curve => curve.beta !== undefined);
    if (raw) {
      const slider = element("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: String(this.beta ?? raw.beta) }), said = element("output", {});
      const say = () => { said.textContent = Number(slider.value) ? Number(slider.value).toFixed(2) : "off"; };
      slider.addEventListener("input", () => { this.beta = Number(slider.value); say(); this.change(); });
      say();
      tools.append(element("label", {}, "smoothing ", slider, said));
    }
    this.reset = element("button", { type: "button", textContent: "reset zoom", hidden: true });
    this.reset.addEventListener("click", () => { for (const view of this.views) view.zoomTo(null); });
    tools.append(this.reset);
    this.root.querySelector(".panels").before(tools);
  }

  zoomed() { this.reset.hidden = !this.views.some(view => view.zoom); }

  /** What the reader chose; where a browser keeps nothing for a page, it lasts until the page is loaded again. */
  remember() {
    try { sessionStorage.setItem(`report ${location.pathname} ${this.name}`, JSON.stringify({ off: [...this.off], logX: this.logX, logY: this.logY, beta: this.beta })); } catch { }
  }

  recall() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(`report ${location.pathname} ${this.name}`));
      if (kept) Object.assign(this, kept, { off: new Set(kept.off) });
    } catch { }
  }
}

/** The entry of the contents whose part is being read. */
function followContents() {
  const links = new Map([...document.querySelectorAll("nav.contents > ol a")].map(link => [document.getElementById(decodeURIComponent(link.hash.slice(1))), link]));
  const parts = [...links.keys()].filter(Boolean);
  if (!parts.length) return;
  const follow = () => {
    let now = parts[0];
    for (const part of parts) if (part.getBoundingClientRect().top < innerHeight * 0.3) now = part;
    links.forEach((link, part) => { if (part === now) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current"); });
  };
  let waiting = false;
  addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; follow(); }); } }, { passive: true });
  follow();
}

const figures = new Map();
for (const root of document.querySelectorAll("figure.card")) {
  if (!root.querySelector("script.data")) continue;
  try { figures.set(root.id, new Figure(root)); } catch (error) { console.error(root.id, error); }
}
followContents();
