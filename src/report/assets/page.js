// The page's own movements: sliders, moving lines, the command to copy, the table of seconds.
(() => {
  "use strict";
  const at = id => document.getElementById(id);
  const read = id => JSON.parse(at(id).textContent);
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const group = n => n.toLocaleString("en-US");
  const thisRun = read("this-run"), data = read("data");

  document.querySelector(".brand").append(" of ", make("bdi", { textContent: thisRun.run }));
  // Two of them are parts of another.
  const order = ["import", "embed", "score", "dedup", "kmeans", "pairs", "audit", "decide", "write"];
  const parts = { kmeans: "of it, clusters", pairs: "of it, pairs" };
  const stages = Object.entries(thisRun.seconds).sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  const longest = Math.max(...stages.map(([, seconds]) => seconds), 1e-9);
  for (const [stage, seconds] of stages) {
    const bar = make("i", { className: parts[stage] ? "part" : "" });
    bar.style.width = `${(seconds / longest * 100).toFixed(2)}%`;
    at("stages").append(make("tr", {},
      make("td", { textContent: parts[stage] ?? stage, className: parts[stage] ? "part" : "" }),
      make("td", { className: "n", textContent: seconds.toFixed(2) }),
      make("td", { className: "share" }, make("span", { className: "bar" }, bar))));
  }
  if (!stages.length) at("seconds").hidden = true;

  if (data.off) return;
  at("off").hidden = true;
  at("panel").hidden = false;
  const set = clipsift.unpack(data);
  const stored = { eps: data.eps ? data.eps.value : null, thresholds: data.thresholds.map(t => ({ ...t })) };
  const settings = { eps: stored.eps, thresholds: stored.thresholds.map(t => ({ ...t })) };
  const rows = new Map(), refreshers = [];

  // What a slider stops at: a decimal number of about 400 steps.
  const rounded = (value, low, high) => {
    const places = Math.max(0, Math.min(12, Math.ceil(-Math.log10((high - low) / 400 || 1))));
    return Math.min(high, Math.max(low, Number(value.toFixed(places))));
  };

  // One control: a label, perhaps a switch, a slider and the number itself.
  function control(name, low, high, get, set, toggle) {
    const slider = make("input", { type: "range", min: low, max: high, step: "any" });
    const number = make("input", { type: "number", step: "any" });
    slider.setAttribute("aria-label", name);
    number.setAttribute("aria-label", name + ", as a number");
    const label = make("label", {}, name);
    if (toggle) {
      const box = make("input", { type: "checkbox" });
      box.addEventListener("change", () => { toggle.set(box.checked); refresh(); });
      label.prepend(box);
      refreshers.push(() => { box.checked = toggle.get(); });
    }
    const put = value => { set(value); if (toggle) toggle.set(true); refresh(); };
    slider.addEventListener("input", () => put(rounded(slider.valueAsNumber, low, high)));
    number.addEventListener("change", () => {
      // Above the slider's end the eps would ask for pairs that are not here.
      const value = number.valueAsNumber;
      if (Number.isNaN(value)) refresh();
      else put(toggle ? value : Math.min(high, Math.max(low, value)));
    });
    refreshers.push(() => { slider.value = get(); number.value = get(); });
    at("controls").append(make("div", { className: "control" }, label, slider, number));
    return { slider, number };
  }

  settings.thresholds.forEach((threshold, i) => {
    const score = data.scores[threshold.score];
    const words = threshold.bound === "min" ? "at least" : "below";
    const { slider, number } = control(`${score.name} ${words}`, score.low, score.high,
      () => threshold.value, value => { threshold.value = value; },
      { get: () => threshold.on, set: on => { threshold.on = on; } });
    slider.id = `slider-${i}`;
    number.id = `number-${i}`;
  });
  if (data.eps) {
    const { slider, number } = control("eps", 0, data.eps.max, () => settings.eps, value => { settings.eps = value; });
    slider.id = "slider-eps";
    number.id = "number-eps";
  }

  const names = key => key.startsWith("score:") ? "not passing " + key.slice(6) : key;
  const was = new Map(data.stored);
  const keys = [...new Set([
    ...was.keys(), ...data.thresholds.map(t => "score:" + data.scores[t.score].name), "duplicates", "kept",
  ])];
  const place = key => key === "duplicates" ? 2 : key === "kept" ? 3 : key.startsWith("score:") ? 1 : 0;
  for (const key of keys.sort((a, b) => place(a) - place(b))) {
    const now = make("td", { className: "n" });
    now.dataset.count = key;
    rows.set(key, now);
    at("outcome").tBodies[0].append(make("tr", { className: key === "kept" ? "main" : "" },
      make("td", { textContent: names(key) }),
      make("td", { className: "n", textContent: group(was.get(key) ?? 0) }), now));
  }

  function draw() {
    for (const chart of document.querySelectorAll("svg[data-histogram]")) {
      const low = Number(chart.dataset.low), high = Number(chart.dataset.high);
      const name = chart.dataset.histogram;
      const own = settings.thresholds.filter(t => t.on && String(t.score) === name);
      const out = name === "eps"
        ? x => x >= 1 - settings.eps
        : x => own.some(t => t.bound === "min" ? !(x >= t.value) : !(x < t.value));
      const bars = chart.querySelectorAll("rect");
      bars.forEach((bar, i) => bar.classList.toggle("out", out(low + (i + .5) / bars.length * (high - low))));
      for (const line of chart.querySelectorAll("line[data-control]")) {
        const threshold = settings.thresholds[line.dataset.control];
        const value = threshold ? threshold.value : 1 - settings.eps;
        const x = Math.min(1000, Math.max(0, (value - low) / (high - low) * 1000));
        line.setAttribute("x1", x);
        line.setAttribute("x2", x);
        line.classList.toggle("off", threshold !== undefined && !threshold.on);
      }
    }
  }

  function refresh() {
    for (const show of refreshers) show();
    const counts = clipsift.count(set, settings);
    for (const [key, cell] of rows) {
      const n = counts.get(key) ?? 0, before = was.get(key) ?? 0;
      const change = n === before ? "" : ` (${n > before ? "+" : "−"}${group(Math.abs(n - before))})`;
      cell.dataset.value = n;
      cell.replaceChildren(group(n), make("small", { textContent: change }));
    }
    const lines = clipsift.commands(thisRun.run, data, stored, settings);
    at("command").textContent = lines.length ? lines.join("\n") : "Move a slider: the command that applies it stands here.";
    at("copy").hidden = at("reset").hidden = !lines.length;
    draw();
  }

  at("reset").addEventListener("click", () => {
    settings.eps = stored.eps;
    settings.thresholds.forEach((threshold, i) => Object.assign(threshold, stored.thresholds[i]));
    refresh();
  });
  at("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(at("command").textContent);
    } catch {
      // Without leave to write to the clipboard the text is at least selected.
      getSelection().selectAllChildren(at("command"));
    }
  });
  refresh();
})();
