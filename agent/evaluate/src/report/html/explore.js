"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("choice");
  if (!form) return;
  const W = 900, L = 52, R = 24, T = 12, B = 42, MOST = 8;
  const names = document.getElementById("names").namespaceURI;
  const element = (tag, attributes, text) => {
    const made = document.createElementNS(names, tag);
    for (const name in attributes) made.setAttribute(name, attributes[name]);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const node = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const ticks = (most) => {
    const rough = most / 5, unit = 10 ** Math.floor(Math.log10(rough)), step = unit * [1, 2, 5, 10].find((times) => times * unit >= rough * .999);
    return Array.from({ length: 12 }, (_, index) => +(index * step).toPrecision(6)).filter((tick) => tick <= most);
  };
  // A plot of series {label, colour, points: [[x, y or null]], step} over linear axes; `log` makes the first one logarithmic, `upright` the second.
  const plot = ({ title, x, y, series, log, upright, top, area, bound }) => {
    const H = 260, all = series.flatMap((one) => one.points).filter((point) => point[1] !== null);
    const figure = node("figure"), holder = node("div", "wide plot");
    figure.append(node("figcaption", "", title));
    if (!all.length) { figure.append(node("p", "faint", "Not recorded for this choice.")); return figure; }
    const xs = all.map((point) => point[0]).filter((value) => !log || value > 0), ys = all.map((point) => point[1]).concat(bound || []).filter((value) => !upright || value > 0);
    const peak = Math.max(...ys, 1e-9), floor = upright ? 10 ** Math.floor(Math.log10(Math.min(...ys, peak))) : 0, most = top || (upright ? Math.max(10 ** Math.ceil(Math.log10(peak)), floor * 10) : peak * 1.06);
    const low = log ? 10 ** Math.floor(Math.log10(Math.min(...xs))) : 0, high = log ? Math.max(10 ** Math.ceil(Math.log10(Math.max(...xs))), low * 10) : Math.max(...xs);
    const atX = (value) => L + (log ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : value / high) * (W - L - R);
    const atY = (value) => H - B - Math.min(upright ? Math.log(Math.max(value, floor) / floor) / Math.log(most / floor) : value / most, 1) * (H - T - B);
    const decades = (from, to) => Array.from({ length: Math.round(Math.log10(to / from)) + 1 }, (_, index) => from * 10 ** index);
    const svg = element("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: ${series.map((one) => one.label).join(", ")}` });
    const across = log ? decades(low, high) : ticks(high);
    for (const tick of across) svg.append(element("path", { class: "grid", d: `M${atX(tick)} ${T}V${H - B}` }), element("text", { class: "tick", x: atX(tick), y: H - B + 15 }, +tick.toPrecision(3)));
    for (const tick of upright ? decades(floor, most) : ticks(most)) svg.append(element("path", { class: "grid", d: `M${L} ${atY(tick)}H${W - R}` }), element("text", { class: "tick end", x: L - 6, y: atY(tick) + 4 }, +tick.toPrecision(3)));
    svg.append(element("path", { class: "axis", d: `M${L} ${T}V${H - B}H${W - R}` }), element("text", { class: "label", x: (L + W - R) / 2, y: H - 7 }, x), element("text", { class: "label", transform: `translate(13 ${(T + H - B) / 2}) rotate(-90)` }, y));
    if (area && area.points.length) {
      const crest = Math.max(...area.points.map((point) => point[1]), 1e-9);
      const line = area.points.map((point) => `L${atX(point[0]).toFixed(1)} ${atY(point[1] / crest * most * .94).toFixed(1)}`).join("");
      svg.append(element("path", { class: "load", d: `M${atX(area.points[0][0])} ${H - B}${line}V${H - B}Z` }), element("text", { class: "tick end", x: W - R - 4, y: T + 12 }, `shaded: load, peak ${+crest.toPrecision(3)} requests/s`));
    }
    if (bound) svg.append(element("path", { class: "bound-line", d: `M${L} ${atY(bound)}H${W - R}` }));
    for (const one of series) {
      let path = "", pen = false, before = 0;
      for (const [px, py] of one.points) {
        if (py === null) { pen = false; continue; }
        const left = atX(px).toFixed(1), height = atY(py).toFixed(1);
        path += !pen ? `M${left} ${height}` : one.step && height !== before ? `H${left}V${height}` : `L${left} ${height}`;
        pen = true; before = height;
      }
      svg.append(element("path", { class: `line k${one.colour}`, d: path }));
    }
    holder.append(svg);
    figure.append(holder);
    return figure;
  };
  const legend = (chosen) => {
    const made = node("p", "legend");
    chosen.forEach((competitor, colour) => {
      const key = element("svg", { class: "key", viewBox: "0 0 28 8", "aria-hidden": "true" }), item = node("span");
      key.append(element("path", { class: `line k${colour}`, d: "M0 4H28" }));
      item.append(key, " " + data.competitors[competitor]);
      made.append(item);
    });
    return made;
  };
  const table = (cell, chosen) => {
    const holder = document.getElementById("runs"), made = node("table"), head = node("tr"), body = node("tbody"), top = node("thead");
    ["competitor", "seed", "violations %", "p95 ms", `cost ${data.currency}/h`].forEach((text) => head.append(node("th", "", text)));
    top.append(head); made.append(top, body);
    for (const competitor of chosen) {
      const runs = data.runs[`${competitor}.${cell}`];
      if (runs) data.seeds.forEach((seed, index) => {
        const row = node("tr"), [violated, p95, cost] = runs.map((column) => column[index] === undefined ? null : column[index]);
        row.append(node("td", "", data.competitors[competitor]));
        [seed, violated === null ? null : +(violated * 100).toPrecision(4), p95, cost].forEach((value) => row.append(node("td", "n", value === null ? "-" : value)));
        body.append(row);
      });
    }
    holder.replaceChildren(body.children.length ? made : node("p", "faint", "Too many runs for a page: they are in the CSV of runs."));
  };
  const show = () => {
    const value = (id) => document.getElementById(id).value;
    const cell = data.cells.findIndex((one) => one.f === value("f") && one.w === value("w") && one.p === value("p"));
    const boxes = [...form.querySelectorAll("input")], chosen = boxes.filter((box) => box.checked).map((box) => +box.value).slice(0, MOST);
    boxes.forEach((box) => { box.disabled = !box.checked && chosen.length >= MOST; });
    const course = document.getElementById("course");
    if (cell < 0) { course.replaceChildren(node("p", "faint", "The suite has no such cell.")); return; }
    const load = data.loads[cell] || { t: [], r: [] }, about = data.cells[cell];
    const series = (of, step) => chosen.map((competitor, colour) => ({ label: data.competitors[competitor], colour, step, points: of(`${competitor}.${cell}`) }));
    const over = (column) => (key) => data.courses[key] ? data.courses[key][column].map((value, index) => [load.t[index], value]).filter((point) => point[0] !== undefined) : [];
    const found = chosen.map((competitor) => data.courses[`${competitor}.${cell}`]).find((one) => one);
    const time = `time, s (measured from ${data.warm} s on)`, seed = found ? `, seed ${found.seed}` : "";
    const within = (key) => (data.latencies[key] || []).map((value, index) => [value, data.shares[index] * 100]).filter((point) => point[0] !== null);
    course.replaceChildren(
      legend(chosen),
      plot({ title: `Replicas and load${seed}`, x: time, y: "replicas", series: series(over("n"), true), area: { points: load.r.map((value, index) => [load.t[index], value]).filter((point) => point[1] !== null) } }),
      plot({ title: `Latency, percentile ${about.pct}${seed}` + (about.ms ? `; dotted: the objective, ${about.ms} ms` : ""), x: time, y: "latency, ms (log.)", series: series(over("l")), bound: about.ms, upright: true }),
      plot({ title: "Latency of all runs of the cell", x: "latency, ms (logarithmic)", y: "answered within, %", series: series(within), log: true, top: 100 }));
    table(cell, chosen);
  };
  const first = data.cells[0];
  if (first) [["f", "f"], ["w", "w"], ["p", "p"]].forEach(([id, key]) => { document.getElementById(id).value = first[key]; });
  form.querySelectorAll("input").forEach((box) => { box.checked = data.featured.includes(+box.value); });
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
