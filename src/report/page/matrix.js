// Tables of values by two names, coloured from light to dark, with a number in every cell.

/** From low to high, for the light and the dark theme: lightness alone carries the order, so that it is readable without colour. */
const SCALE_LIGHT = [[246, 248, 251], [150, 190, 222], [58, 128, 184], [8, 60, 110]];
const SCALE_DARK = [[29, 34, 42], [35, 80, 122], [74, 148, 205], [190, 226, 255]];

/** @param {number[][]} stops @param {number} share from 0 to 1 */
function scaleColour(stops, share) {
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const index = Math.min(stops.length - 2, Math.floor(at));
  return stops[index].map((from, channel) => Math.round(from + (stops[index + 1][channel] - from) * (at - index)));
}

/** The text colour with more contrast on a colour. @param {number[]} colour */
function inkOn(colour) {
  const [red, green, blue] = colour.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}

/** @param {HTMLElement} element @param {number} share */
function paint(element, share) {
  const [light, dark] = [scaleColour(SCALE_LIGHT, share), scaleColour(SCALE_DARK, share)];
  element.style.setProperty("--heat-light", `rgb(${light.join(" ")})`);
  element.style.setProperty("--heat-dark", `rgb(${dark.join(" ")})`);
  element.style.setProperty("--heat-ink-light", inkOn(light));
  element.style.setProperty("--heat-ink-dark", inkOn(dark));
}

/** @param {Matrix[]} matrices @returns {Node[]} */
function drawMatrices(matrices) {
  return [el("div", { class: "matrices" }, matrices.map(drawMatrix))];
}

/** @param {Matrix} matrix */
function drawMatrix(matrix) {
  const values = matrix.values.flat().filter((value) => value !== null && Number.isFinite(value));
  const [low, high] = matrix.unit === "share" ? [0, 1] : [Math.min(...values), Math.max(...values)];
  const shareOf = (/** @type {number} */ value) => (high > low ? (value - low) / (high - low) : 0.5);
  const key = `matrix ${matrix.section} ${matrix.title}`;
  const rest = `${matrix.section === "confusion" ? "Shares of the row. " : ""}${denominators(matrix)} Point at a cell for its number.`;
  const readout = el("p", { class: "readout", "aria-live": "polite" }, rest);
  const at = remembered(key, { row: 0, column: 0 });

  const hasMeans = matrix.row_means.length > 0;
  /** The names of rows and columns, and the content of each cell, with means at the right and below. */
  const rows = hasMeans ? [...matrix.rows, "mean"] : matrix.rows;
  const columns = hasMeans ? [...matrix.columns, "mean"] : matrix.columns;
  const shown = rows.map((_, r) => columns.map((_, c) => (r < matrix.rows.length && c < matrix.columns.length ? cellOf(matrix, r, c) : meanOf(matrix, r, c))));

  /** @type {HTMLElement[][]} */
  const cells = shown.map((row, r) => row.map(({ value, text, isMean }, c) => {
    const cell = el("td", {
      class: `heat${value === null ? " none" : ""}${isMean ? " mean" : ""}`, title: text, tabindex: r === at.row && c === at.column ? 0 : -1, data: { key: `${key} ${r} ${c}` },
      on: { pointerenter: () => (readout.textContent = text), focus: () => (readout.textContent = text) },
    }, value === null ? "–" : formatNumber(value, matrix.unit));
    if (value !== null) paint(cell, shareOf(value));
    return cell;
  }));
  const move = (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const next = step && cells[at.row + step[0]]?.[at.column + step[1]];
    if (!step) return;
    event.preventDefault();
    if (!next) return;
    cells[at.row][at.column].tabIndex = -1;
    Object.assign(at, { row: at.row + step[0], column: at.column + step[1] });
    next.tabIndex = 0;
    next.focus();
  };
  if (!cells[at.row]?.[at.column]) Object.assign(at, { row: 0, column: 0 });

  const table = el("table", { class: "matrix", role: "grid", on: { keydown: move, pointerleave: () => (readout.textContent = rest) } },
    el("caption", { class: "unseen" }, `${matrix.title}: ${matrix.rows_label} by ${matrix.columns_label}`),
    el("thead", {}, el("tr", {}, el("td", { class: "corner" }, el("span", {}, `${matrix.rows_label} ↓`), el("span", {}, `${matrix.columns_label} →`)),
      columns.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map((name, r) => el("tr", {}, el("th", { scope: "row" }, name), cells[r]))));
  return el("figure", { class: "matrix-figure" },
    el("figcaption", {}, el("h3", {}, capitalised(matrix.title)), scaleLegend(low, high, matrix.unit)),
    el("div", { class: "scroller", data: { key: `${key} scroller` } }, table), readout);
}

/** The content of a cell, and its description. @param {Matrix} matrix @param {number} r @param {number} c */
function cellOf(matrix, r, c) {
  const value = matrix.values[r][c];
  const unknown = matrix.undetermined[r]?.[c];
  const text = `${matrix.rows_label} ${matrix.rows[r]}, ${matrix.columns_label} ${matrix.columns[c]}: ${formatValue(value, matrix.unit)}, of ${counted(matrix.counts[r]?.[c] ?? 0, "observation")}${unknown ? `, ${formatCount(unknown)} undetermined` : ""}`;
  return { value, text, isMean: false };
}

/** The same for a mean: of a row at its right, of a column below it, of all in the corner. @param {Matrix} matrix @param {number} r @param {number} c */
function meanOf(matrix, r, c) {
  const [isRow, isColumn] = [r < matrix.rows.length, c < matrix.columns.length];
  const interval = isRow ? matrix.row_means[r] : isColumn ? matrix.column_means[c] : matrix.mean;
  const of = isRow ? `${matrix.rows_label} ${matrix.rows[r]}, mean over all ${matrix.columns_label}s`
    : isColumn ? `${matrix.columns_label} ${matrix.columns[c]}, mean over all ${matrix.rows_label}s` : "mean of all";
  return { value: interval?.value ?? null, text: `${of}: ${interval ? formatInterval(interval, matrix.unit) : "–"}`, isMean: true };
}

/** The observations behind the cells, and the undetermined ones. @param {Matrix} matrix */
function denominators(matrix) {
  const counts = matrix.counts.flat().filter((count) => count > 0);
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  const span = least === most ? "" : `${formatCount(least)} to `;
  const unknown = matrix.undetermined.flat().reduce((sum, count) => sum + count, 0);
  const of = counts.length ? `Cells have ${span}${counted(most, "observation")}` : "No observations";
  return unknown ? `${of}; ${counted(unknown, "more observation")} undetermined and left out.` : `${of}.`;
}

/** @param {number} low @param {number} high @param {string} unit */
function scaleLegend(low, high, unit) {
  const steps = Array.from({ length: 8 }, (_, index) => {
    const step = el("span", { class: "heat" });
    paint(step, index / 7);
    return step;
  });
  return el("span", { class: "scale-legend" }, formatValue(low, unit), el("span", { class: "scale", "aria-hidden": "true" }, steps), formatValue(high, unit));
}
