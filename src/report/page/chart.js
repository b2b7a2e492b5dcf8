// Charts as SVG: each curve is labelled at its end, with its interval as a band. A crosshair follows pointer and keyboard, with
// its values above the chart.

const CHART_HEIGHT = 210;
const CURVE_COLOURS = 7;
/** Approximate width of a letter of a label, in pixels. */
const LETTER = 6.3;
const NAME_LETTER = 7.9;

const ROLE_ORDER = ["attacker", "defender", "evaluator", ""];

/** One observer for all charts: each is drawn for its own width, so that letters keep their size. */
const chartWidths = new ResizeObserver((entries) => {
  for (const entry of entries) chartDrawers.get(entry.target)?.(Math.round(entry.contentRect.width));
});
/** @type {WeakMap<Element, (width: number) => void>} */
const chartDrawers = new WeakMap();

/**
 * @param {Panel[]} panels
 * @param {string[]} columns the headline's columns: these names have the same colour in all panels
 * @returns {Node[]}
 */
function drawPanels(panels, columns) {
  const shown = remembered("role shown", { role: "all" });
  const roles = ROLE_ORDER.filter((role) => role && panels.some((panel) => panel.role === role));
  const groups = [...new Set(panels.map((panel) => panel.section))].map((section) => {
    const inside = panels.filter((panel) => panel.section === section);
    inside.sort((a, b) => ROLE_ORDER.indexOf(a.role) - ROLE_ORDER.indexOf(b.role));
    return el("section", { class: "panel-group" }, el("h3", {}, capitalised(section)),
      el("div", { class: "panels" }, inside.map((panel) => drawPanel(panel, columns))));
  });
  const choose = () => {
    for (const figure of groups.flatMap((group) => [...group.querySelectorAll("figure")])) {
      figure.hidden = shown.role !== "all" && figure.dataset.role !== shown.role;
    }
    for (const group of groups) group.hidden = !group.querySelector("figure:not([hidden])");
    for (const choice of choices) choice.setAttribute("aria-pressed", String(choice.dataset.role === shown.role));
  };
  const choices = ["all", ...roles].map((role) => button(role === "all" ? "All roles" : capitalised(role), () => {
    shown.role = role;
    choose();
  }, { data: { role, key: `role ${role}` } }));
  choose();
  const head = roles.length > 1 ? [el("div", { class: "segments", role: "group", "aria-label": "Show curves of" }, choices)] : [];
  return [...head, ...groups];
}

/** @param {Panel} given @param {string[]} columns */
function drawPanel(given, columns) {
  // NaN and infinity (from a step without a value) arrive as null: the curve continues at the next value.
  const panel = { ...given, series: given.series.map((curve) => ({ ...curve, points: curve.points.filter(([, { value }]) => Number.isFinite(value)) })) };
  const colours = curveColours(panel.series.map((curve) => curve.name), columns);
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const host = el("div", { class: "chart" });
  const last = Math.max(0, ...panel.series.flatMap((curve) => curve.points.map(([place]) => place)));
  let place = last;
  /** @type {(place: number | null) => void} */
  let moveCrosshair = () => {};

  /** @param {number} to @param {boolean} pointed whether the reader points there, rather than the default place */
  const read = (to, pointed) => {
    place = Math.min(last, Math.max(0, to));
    readout.replaceChildren(el("span", { class: "readout-place" }, panel.ticks[place] ?? String(place)), ...panel.series.flatMap((curve, index) => {
      const point = curve.points.find(([at]) => at === place);
      return point ? [el("span", { class: `readout-value curve-${colours[index]}` },
        el("span", { class: "dot", "aria-hidden": "true" }), curve.name && panel.series.length > 1 ? `${curve.name} ` : "",
        el("strong", {}, formatValue(point[1].value, panel.unit)),
        formatRange(point[1], panel.unit) && el("span", { class: "fine" }, ` ${formatRange(point[1], panel.unit)}`),
        el("span", { class: "fine" }, ` ${formatDenominator(point[1].count, point[1].undetermined)}`))] : [];
    }));
    moveCrosshair(pointed ? place : null);
  };

  chartDrawers.set(host, (width) => {
    if (width < 80) return;
    const chart = drawChart(panel, colours, width);
    moveCrosshair = chart.moveCrosshair;
    setAttributes(chart.root, {
      tabindex: 0,
      data: { key: `chart ${panel.section} ${panel.role} ${panel.title}` },
      on: {
        pointermove: (/** @type {PointerEvent} */ event) => read(chart.placeAt(event.clientX), true),
        pointerleave: () => read(last, false),
        focus: () => chart.root.matches(":focus-visible") && read(place, true),
        blur: () => read(last, false),
        keydown: (/** @type {KeyboardEvent} */ event) => {
          const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: last }[event.key];
          if (to === undefined) return;
          event.preventDefault();
          read(to, true);
        },
      },
    });
    const focused = host.contains(document.activeElement);
    host.replaceChildren(chart.root);
    if (focused) chart.root.focus();
  });
  chartWidths.observe(host);
  read(last, false);
  return el("figure", { class: "panel", data: { role: panel.role } },
    el("figcaption", {}, el("span", { class: "panel-title" }, capitalised(panel.title)), panel.role && el("span", { class: "role" }, panel.role)),
    readout, host);
}

/**
 * A colour for each curve: names of the headline have fixed ones, others take free ones.
 * @param {string[]} names
 * @param {string[]} columns
 */
function curveColours(names, columns) {
  const colours = names.map((name) => (columns.includes(name) ? columns.indexOf(name) % CURVE_COLOURS : -1));
  const taken = new Set(colours);
  return colours.map((colour, index) => {
    if (colour >= 0) return colour;
    for (let next = 0; next < CURVE_COLOURS; next += 1) {
      if (taken.has(next)) continue;
      taken.add(next);
      return next;
    }
    return index % CURVE_COLOURS;
  });
}

/**
 * @param {Panel} panel
 * @param {number[]} colours
 * @param {number} width
 * @returns {{root: SVGElement, placeAt: (clientX: number) => number, moveCrosshair: (place: number | null) => void}}
 */
function drawChart(panel, colours, width) {
  const named = panel.series.length > 1 || panel.series.some((curve) => curve.name);
  const longest = Math.max(0, ...panel.series.map((curve) => curve.name.length));
  const letters = Math.min(longest, Math.floor((width * 0.36) / NAME_LETTER));
  const right = named ? Math.max(24, letters * NAME_LETTER + 16) : 24;
  const scale = valueTicks(panel);
  const left = 12 + Math.max(...scale.ticks.map((tick) => tickLabel(tick, scale.step, panel.unit).length)) * LETTER;
  const [top, bottom] = [20, 38];
  const places = Math.max(panel.ticks.length, 1 + Math.max(0, ...panel.series.flatMap((curve) => curve.points.map(([place]) => place))));
  const spread = Math.max(1, places - 1);
  const inner = width - left - right;
  const x = (/** @type {number} */ place) => (places === 1 ? left + inner / 2 : left + (place / spread) * inner);
  const y = (/** @type {number} */ value) => top + (1 - (value - scale.low) / (scale.high - scale.low)) * (CHART_HEIGHT - top - bottom);

  const grid = scale.ticks.map((tick) => [
    svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
    svg("text", { class: "tick", x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickLabel(tick, scale.step, panel.unit)),
  ]);
  const axes = [
    svg("text", { class: "axis", x: 0, y: 10 }, { share: "%", number: "" }[panel.unit] ?? panel.unit),
    svg("text", { class: "axis", x: left + inner / 2, y: CHART_HEIGHT - 3, "text-anchor": "middle" }, panel.x_label),
    placeTicks(panel.ticks, x, inner).map(([place, label]) => [
      svg("line", { class: "grid", x1: x(place), x2: x(place), y1: CHART_HEIGHT - bottom, y2: CHART_HEIGHT - bottom + 4 }),
      svg("text", { class: "tick", x: x(place), y: CHART_HEIGHT - bottom + 16, "text-anchor": "middle" }, label),
    ]),
  ];
  const bands = panel.series.map((curve, index) => band(curve, colours[index], x, y));
  const lines = panel.series.map((curve, index) => line(curve, colours[index], x, y));
  const labels = named ? endLabels(panel.series, colours, y, x, letters) : [];
  const crosshair = svg("g", { class: "crosshair", visibility: "hidden" },
    svg("line", { y1: top, y2: CHART_HEIGHT - bottom }), panel.series.map((_, index) => svg("circle", { r: 4, class: `curve-${colours[index]}` })));
  const root = svg("svg", {
    viewBox: `0 0 ${width} ${CHART_HEIGHT}`, role: "img", "aria-label": describePanel(panel), class: "chart-svg",
  }, grid, axes, bands, lines, labels, crosshair);

  return {
    root,
    placeAt(clientX) {
      const box = root.getBoundingClientRect();
      return Math.round((((clientX - box.left) / box.width) * width - left) / (inner / spread));
    },
    moveCrosshair(place) {
      crosshair.setAttribute("visibility", place === null ? "hidden" : "visible");
      if (place === null) return;
      const [rule, ...dots] = crosshair.children;
      setAttributes(rule, { x1: x(place), x2: x(place) });
      dots.forEach((dot, index) => {
        const point = panel.series[index].points.find(([at]) => at === place);
        setAttributes(dot, point ? { cx: x(place), cy: y(point[1].value), visibility: "inherit" } : { visibility: "hidden" });
      });
    },
  };
}

/** The range of values, and round numbers in it. @param {Panel} panel */
function valueTicks(panel) {
  const values = panel.series.flatMap((curve) => curve.points.flatMap(([, { value, low, high }]) => [value, low ?? value, high ?? value])).filter(Number.isFinite);
  let low = values.length ? Math.min(...values) : 0;
  let high = values.length ? Math.max(...values) : 1;
  if (panel.unit === "share" && high - low > 0.35) [low, high] = [Math.min(low, 0), Math.max(high, 1)];
  if (high - low < 1e-9) [low, high] = [low - (Math.abs(low) * 0.1 || 0.05), high + (Math.abs(high) * 0.1 || 0.05)];
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999) ?? rough;
  low = Math.floor(low / step + 1e-6) * step;
  high = Math.ceil(high / step - 1e-6) * step;
  // A share ends at 0 and 1, even if steps would exceed them.
  if (panel.unit === "share" && values.every((value) => value <= 1)) high = Math.min(high, 1);
  const ticks = [];
  for (let index = 0; low + index * step <= high + step * 1e-6; index += 1) ticks.push(low + index * step);
  return { low, high, ticks, step };
}

/** @param {number} tick @param {number} step @param {string} unit */
function tickLabel(tick, step, unit) {
  const factor = unit === "share" ? 100 : 1;
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step * factor) + 1e-6) + (String(step * factor).includes("25") && step * factor < 10 ? 1 : 0)));
  return withMinus((tick * factor).toFixed(digits).replace(/^-(0(\.0+)?)$/, "$1"));
}

/**
 * As many evenly spaced names of places as fit.
 * @param {string[]} ticks
 * @param {(place: number) => number} x
 * @param {number} inner
 * @returns {[number, string][]}
 */
function placeTicks(ticks, x, inner) {
  const widest = Math.max(1, ...ticks.map((tick) => Math.min(14, tick.length))) * LETTER + 10;
  const every = Math.max(1, Math.ceil((ticks.length - 1) / Math.max(1, Math.floor(inner / widest))));
  return ticks.flatMap((tick, place) => (place % every === 0 ? [/** @type {[number, string]} */ ([place, clipped(tick, 14)])] : []));
}

/** @param {Curve} curve @param {number} colour @param {(n: number) => number} x @param {(n: number) => number} y */
function band(curve, colour, x, y) {
  const points = curve.points.filter(([, { low, high }]) => low !== null && high !== null);
  if (points.length < 2) return null;
  const upper = points.map(([place, { high }]) => `${x(place).toFixed(1)},${y(high ?? 0).toFixed(1)}`);
  const lower = points.map(([place, { low }]) => `${x(place).toFixed(1)},${y(low ?? 0).toFixed(1)}`).reverse();
  return svg("path", { class: `band curve-${colour}`, d: `M${upper.join("L")}L${lower.join("L")}Z` });
}

/** @param {Curve} curve @param {number} colour @param {(n: number) => number} x @param {(n: number) => number} y */
function line(curve, colour, x, y) {
  const points = curve.points.map(([place, { value }]) => [x(place).toFixed(1), y(value).toFixed(1)]);
  return svg("g", { class: `curve-${colour}` },
    svg("path", { class: "line", d: points.length ? `M${points.map((point) => point.join(",")).join("L")}` : "" }),
    points.length <= 16 && points.map(([cx, cy]) => svg("circle", { class: "point", cx, cy, r: 2.6 })));
}

/**
 * Names at the ends of the curves, moved apart where they would overlap.
 * @param {Curve[]} series
 * @param {number[]} colours
 * @param {(n: number) => number} y
 * @param {(n: number) => number} x
 * @param {number} letters
 */
function endLabels(series, colours, y, x, letters) {
  const apart = 14;
  const ends = series.flatMap((curve, index) => {
    const end = curve.points.at(-1);
    return end && curve.name ? [{ curve, colour: colours[index], x: x(end[0]), at: y(end[1].value), y: y(end[1].value) }] : [];
  }).sort((a, b) => a.y - b.y);
  for (let index = 1; index < ends.length; index += 1) ends[index].y = Math.max(ends[index].y, ends[index - 1].y + apart);
  let floor = CHART_HEIGHT - 40;
  for (const end of ends.reverse()) {
    end.y = Math.min(end.y, floor);
    floor = end.y - apart;
  }
  return ends.map((end) => svg("g", { class: `curve-${end.colour}` },
    Math.abs(end.y - end.at) > 3 && svg("path", { class: "leader", d: `M${end.x + 4},${end.at}L${end.x + 9},${end.y}` }),
    svg("text", { class: "name", x: end.x + 11, y: end.y + 4 }, svg("title", {}, end.curve.name), clipped(end.curve.name, Math.max(4, letters)))));
}

/** The chart in words, for screen readers. @param {Panel} panel */
function describePanel(panel) {
  const curves = panel.series.map((curve) => {
    const [first, last] = [curve.points[0], curve.points.at(-1)];
    if (!first || !last) return `${curve.name || "the curve"} has no values`;
    return `${curve.name || "it"} goes from ${formatValue(first[1].value, panel.unit)} to ${formatValue(last[1].value, panel.unit)}`;
  });
  return `${panel.title}, by ${panel.x_label}: ${curves.join("; ")}. Arrow keys move along the curves.`;
}
