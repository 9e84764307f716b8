// A page that is served while runs go on asks for the points that it does not have yet, and draws on.

function goLive(given) {
  const status = document.getElementById("live-status");
  let after = "", timer = 0, asking = false;
  const say = (words, state) => { status.textContent = words; status.dataset.state = state; };

  function take(reply) {
    for (const name in reply.figures) {
      const figure = figures.get(name);
      if (!figure) continue;
      reply.figures[name].panels.forEach((panel, i) => (panel.curves || []).forEach((points, k) => {
        const curve = figure.views[i].panel.curves[k], found = readCurve(points);
        if (found.x.length) extendCurve(curve, found.x, found.y);
      }));
      figure.draw();
    }
    for (const name in reply.tables) {
      const body = document.getElementById(name)?.querySelector("tbody");
      const rows = reply.tables[name];
      rows.forEach((row, i) => row.forEach((cell, k) => {
        const place = body?.rows[i]?.cells[k];
        if (place && place.textContent !== cell) place.textContent = cell;
      }));
    }
  }

  async function poll() {
    if (asking) return;
    asking = true;
    let wait = given.every;
    try {
      const answer = await fetch(`points?after=${encodeURIComponent(after)}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(`the program answered ${answer.status}`);
      const reply = await answer.json();
      // Another run, measure or beginning: the page is built anew; what the reader chose is kept.
      if (reply.structure !== given.structure) return location.reload();
      take(reply);
      after = reply.after;
      if (reply.more) wait = 0;
      say(reply.status, "on");
    } catch {
      say("the program does not answer; the page goes on when it does", "off");
    }
    asking = false;
    clearTimeout(timer);
    timer = setTimeout(poll, document.hidden ? Math.max(wait, 10 * given.every) : wait);
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) { clearTimeout(timer); poll(); } });
  poll();
}

const liveData = document.getElementById("live-data");
if (liveData) goLive(JSON.parse(liveData.textContent));
