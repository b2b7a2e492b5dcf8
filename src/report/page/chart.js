// Charts as SVG, with the interval of each curve as a band. A few curves are labelled at their ends; where there are more, the
// values above the chart are their legend. A crosshair follows pointer and keyboard, and the values with it.

const CHART_HEIGHT = 210;
const CURVE_COLOURS = 7;
const CURVE_DASHES = 4;
/** With more curves, labels at their ends would lie far from these. */
const MOST_LABELS = 6;
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
  const styles = curveStyles(panel.series.map((curve) => curve.name), columns);
  const readout = el("div", { class: "readout", "aria-live": "polite" });
  const drawTable = styles.some((style) => style.metric) ? valuesByColumn : null;
  const host = el("div", { class: "chart" });
  const last = Math.max(0, ...panel.series.flatMap((curve) => curve.points.map(([place]) => place)));
  let place = last;
  /** @type {(place: number | null) => void} */
  let moveCrosshair = () => {};

  /** @param {number} to @param {boolean} pointed whether the reader points there, rather than the default place */
  const read = (to, pointed) => {
    place = Math.min(last, Math.max(0, to));
    readout.replaceChildren(...(drawTable ?? drawValues)(panel, styles, place));
    moveCrosshair(pointed ? place : null);
  };

  chartDrawers.set(host, (width) => {
    if (width < 80) return;
    const chart = drawChart(panel, styles, width);
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
 * How a curve is drawn. `column` and `metric` are the parts of a name such as `full: over-refusal`.
 * @typedef {{class: string, column: string, metric: string}} CurveStyle
 */

/**
 * The columns of the headline have the same colours in all charts, and several metrics of them different dashes. Other curves take
 * free colours; where these do not suffice, dashes tell them apart.
 * @param {string[]} names
 * @param {string[]} columns
 * @returns {CurveStyle[]}
 */
function curveStyles(names, columns) {
  const parts = names.map((name) => {
    const column = columns.find((column) => name === column || name.startsWith(`${column}: `));
    return { column: column ?? "", metric: column === undefined || name === column ? "" : name.slice(column.length + 2) };
  });
  const metrics = [...new Set(parts.map(({ metric }) => metric))];
  const taken = new Set(parts.map(({ column }) => (column ? columns.indexOf(column) : -1)));
  let free = 0;
  return parts.map(({ column, metric }) => {
    let colour = columns.indexOf(column);
    if (!column) {
      while (taken.has(free) && free < CURVE_COLOURS) free += 1;
      colour = free;
      free += 1;
    }
    const dash = Math.floor(colour / CURVE_COLOURS) + Math.max(0, metrics.indexOf(metric));
    return { class: `curve-${colour % CURVE_COLOURS} dash-${dash % CURVE_DASHES}`, column, metric };
  });
}

/** A piece of a curve, for legends. @param {string} style */
const swatch = (style) => svg("svg", { class: `swatch ${style}`, viewBox: "0 0 22 8", width: 22, height: 8, "aria-hidden": "true" }, svg("line", { class: "line", x1: 1, x2: 21, y1: 4, y2: 4 }));

/**
 * The values at a place, one after the other; of many curves without their observations.
 * @param {Panel} panel @param {CurveStyle[]} styles @param {number} place
 * @returns {Node[]}
 */
function drawValues(panel, styles, place) {
  const many = panel.series.length > MOST_LABELS;
  return [placeOf(panel, place), ...panel.series.flatMap((curve, index) => {
    const point = curve.points.find(([at]) => at === place);
    return point ? [el("span", { class: "readout-value", title: formatInterval(point[1], panel.unit) },
      swatch(styles[index].class), curve.name && panel.series.length > 1 ? `${curve.name} ` : "",
      el("strong", {}, formatValue(point[1].value, panel.unit)),
      formatRange(point[1], panel.unit) && el("span", { class: "fine" }, ` ${formatRange(point[1], panel.unit)}`),
      !many && el("span", { class: "fine" }, ` ${formatDenominator(point[1].count, point[1].undetermined)}`))] : [];
  })];
}

/**
 * The values at a place of several metrics of each column, as a table.
 * @param {Panel} panel @param {CurveStyle[]} styles @param {number} place
 * @returns {Node[]}
 */
function valuesByColumn(panel, styles, place) {
  const distinct = (/** @type {"column" | "metric"} */ part) => [...new Set(styles.map((style) => style[part]))];
  const metrics = distinct("metric");
  const few = panel.series.length <= MOST_LABELS;
  const indexOf = (/** @type {string} */ column, /** @type {string} */ metric) => styles.findIndex((style) => style.column === column && style.metric === metric);
  const cell = (/** @type {number} */ index) => {
    const point = panel.series[index]?.points.find(([at]) => at === place);
    if (!point) return el("td", { class: "numeric" });
    const range = few && formatRange(point[1], panel.unit);
    return el("td", { class: "numeric", title: formatInterval(point[1], panel.unit) },
      swatch(styles[index].class), el("strong", {}, formatValue(point[1].value, panel.unit)), range && el("span", { class: "fine" }, range));
  };
  return [el("table", { class: "readout-table" },
    el("thead", {}, el("tr", {}, el("td", {}, placeOf(panel, place)), metrics.map((metric) => el("th", { scope: "col", class: "numeric" }, metric)))),
    el("tbody", {}, distinct("column").map((column) => el("tr", {}, el("th", { scope: "row" }, variantName(column)), metrics.map((metric) => cell(indexOf(column, metric)))))))];
}

/** @param {Panel} panel @param {number} place */
const placeOf = (panel, place) => el("span", { class: "readout-place" }, panel.ticks[place] ?? String(place));

/**
 * @param {Panel} panel
 * @param {CurveStyle[]} styles
 * @param {number} width
 * @returns {{root: SVGElement, placeAt: (clientX: number) => number, moveCrosshair: (place: number | null) => void}}
 */
function drawChart(panel, styles, width) {
  const letters = Math.max(0, ...panel.series.map((curve) => curve.name.length));
  const named = letters > 0 && panel.series.length <= MOST_LABELS && letters <= Math.floor((width * 0.36) / NAME_LETTER);
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
  const bands = panel.series.map((curve, index) => band(curve, styles[index], x, y));
  const lines = panel.series.map((curve, index) => line(curve, styles[index], x, y));
  const labels = named ? endLabels(panel.series, styles, y, x) : [];
  const crosshair = svg("g", { class: "crosshair", visibility: "hidden" },
    svg("line", { y1: top, y2: CHART_HEIGHT - bottom }), panel.series.map((_, index) => svg("circle", { r: 4, class: styles[index].class })));
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

/** @param {Curve} curve @param {CurveStyle} style @param {(n: number) => number} x @param {(n: number) => number} y */
function band(curve, style, x, y) {
  const points = curve.points.filter(([, { low, high }]) => low !== null && high !== null);
  if (points.length < 2) return null;
  const upper = points.map(([place, { high }]) => `${x(place).toFixed(1)},${y(high ?? 0).toFixed(1)}`);
  const lower = points.map(([place, { low }]) => `${x(place).toFixed(1)},${y(low ?? 0).toFixed(1)}`).reverse();
  return svg("path", { class: `band ${style.class}`, d: `M${upper.join("L")}L${lower.join("L")}Z` });
}

/** @param {Curve} curve @param {CurveStyle} style @param {(n: number) => number} x @param {(n: number) => number} y */
function line(curve, style, x, y) {
  const points = curve.points.map(([place, { value }]) => [x(place).toFixed(1), y(value).toFixed(1)]);
  return svg("g", { class: style.class },
    svg("path", { class: "line", d: points.length ? `M${points.map((point) => point.join(",")).join("L")}` : "" }),
    points.length <= 16 && points.map(([cx, cy]) => svg("circle", { class: "point", cx, cy, r: 2.6 })));
}

/**
 * Names at the ends of the curves, moved apart where they would overlap.
 * @param {Curve[]} series
 * @param {CurveStyle[]} styles
 * @param {(n: number) => number} y
 * @param {(n: number) => number} x
 */
function endLabels(series, styles, y, x) {
  const apart = 14;
  const ends = series.flatMap((curve, index) => {
    const end = curve.points.at(-1);
    return end && curve.name ? [{ curve, style: styles[index], x: x(end[0]), at: y(end[1].value), y: y(end[1].value) }] : [];
  }).sort((a, b) => a.y - b.y);
  for (let index = 1; index < ends.length; index += 1) ends[index].y = Math.max(ends[index].y, ends[index - 1].y + apart);
  let floor = CHART_HEIGHT - 40;
  for (const end of ends.reverse()) {
    end.y = Math.min(end.y, floor);
    floor = end.y - apart;
  }
  return ends.map((end) => svg("g", { class: end.style.class },
    Math.abs(end.y - end.at) > 3 && svg("path", { class: "leader", d: `M${end.x + 4},${end.at}L${end.x + 9},${end.y}` }),
    svg("text", { class: "name", x: end.x + 11, y: end.y + 4 }, end.curve.name)));
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
