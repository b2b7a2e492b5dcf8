// "Results": for each metric the first evaluation, the last, and the change.

/**
 * The rating of a change: its direction as an arrow, its rating as a word, so that neither needs colour.
 * @param {Interval} change
 * @param {string | null} better
 * @param {string} unit
 * @returns {{arrow: string, word: string, class: string}}
 */
function judgeChange(change, better, unit) {
  const shown = formatNumber(change.value, unit);
  if (!/[1-9]/.test(shown)) return { arrow: "=", word: "same", class: "same" };
  const up = change.value > 0;
  const arrow = up ? "▲" : "▼";
  const unclear = change.low != null && change.high != null && change.low <= 0 && change.high >= 0;
  if (unclear) return { arrow, word: "unclear", class: "same" };
  if (better !== "up" && better !== "down") return { arrow, word: up ? "more" : "less", class: "same" };
  return (better === "up") === up ? { arrow, word: "better", class: "better" } : { arrow, word: "worse", class: "worse" };
}

/** @param {Headline} headline @returns {Node[]} */
function drawHeadline(headline) {
  /** @type {Column<HeadlineRow>[]} */
  const columns = [{
    label: "Metric",
    head: true,
    class: "metric",
    value: (row) => row.label,
    cell: (row) => [
      el("span", { class: "metric-label" }, capitalised(row.label)),
      el("span", { class: "fine" }, `${row.subject}.${row.metric}`),
    ],
  }];
  headline.columns.forEach((name, index) => {
    columns.push({
      label: "First → last",
      title: `${variantName(name)}: at the first evaluation and at the last`,
      numeric: true,
      class: "first-last",
      value: (row) => row.cells[index]?.last.value,
      cell: (row) => firstAndLast(row, row.cells[index]),
    }, {
      label: "Change",
      title: `${variantName(name)}: last minus first`,
      numeric: true,
      class: "change",
      value: (row) => row.cells[index]?.change?.value,
      cell: (row) => changeOf(row, row.cells[index]),
    });
  });
  const groups = el("tr", { class: "groups" }, el("td"), headline.columns.map((name, index) =>
    el("th", { scope: "colgroup", colspan: 2 }, variantName(name),
      headline.seeds[index] > 0 && el("span", { class: "fine" }, counted(headline.seeds[index], "seed")))));
  return [
    scroller("headline", "Results", sortableTable({
      key: "headline", caption: "Metrics at the first and the last evaluation", columns, rows: headline.rows, groups,
    })),
    ...(headline.note ? [el("p", { class: "note" }, headline.note)] : []),
  ];
}

/** @param {HeadlineRow} row @param {HeadlineCell | null} cell */
function firstAndLast(row, cell) {
  if (!cell) return el("span", { class: "fine" }, "none");
  return [
    el("span", { class: "pair", title: `first ${formatInterval(cell.first, row.unit)}, last ${formatInterval(cell.last, row.unit)}` },
      // With one evaluation there is no first one.
      ...(cell.change || cell.first.value !== cell.last.value ? [el("span", { class: "from" }, formatNumber(cell.first.value, row.unit)), " → "] : []),
      el("strong", {}, formatNumber(cell.last.value, row.unit)), unitSuffix(row.unit)),
    formatRange(cell.last, row.unit) && el("span", { class: "fine" }, formatRange(cell.last, row.unit)),
    el("span", { class: "fine" }, formatDenominator(cell.last.count, cell.last.undetermined)),
  ];
}

/** @param {HeadlineRow} row @param {HeadlineCell | null} cell */
function changeOf(row, cell) {
  if (!cell?.change || !Number.isFinite(cell.change.value)) return null;
  const { arrow, word, class: name } = judgeChange(cell.change, row.better, row.unit);
  const range = formatRange(cell.change, row.unit);
  return [
    el("span", { class: `worth ${name}` }, el("span", { "aria-hidden": "true" }, `${arrow} `),
      formatChange(cell.change.value, row.unit), row.unit === "share" ? " points" : "", " ", el("span", { class: "word" }, word)),
    range && el("span", { class: "fine" }, range),
  ];
}
