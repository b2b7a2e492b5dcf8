// Tables that are sorted by a click or key on a column's head.

/**
 * @template Row
 * @typedef {Object} Column
 * @property {string} label
 * @property {string} [title] a tooltip
 * @property {boolean} [numeric] right-aligned, and sorted downwards first
 * @property {boolean} [head] the row's head
 * @property {string} [class]
 * @property {(row: Row) => (number | string | null | undefined)} [value] what to sort by; none: not sortable
 * @property {(row: Row) => (Child | Child[])} cell
 */

/**
 * @template Row
 * @param {Object} options
 * @param {string} options.key the name under which the order is remembered
 * @param {string} options.caption a name for screen readers
 * @param {Column<Row>[]} options.columns
 * @param {Row[]} options.rows
 * @param {HTMLElement} [options.groups] a row of headings above the columns
 * @param {(row: Row) => Object<string, any>} [options.attributes] of a row
 */
function sortableTable({ key, caption, columns, rows, groups, attributes }) {
  const sorted = remembered(`sort ${key}`, { column: -1, down: false });
  const body = el("tbody");
  const heads = columns.map((column, index) => {
    const classes = [column.numeric && "numeric", column.class].filter(Boolean).join(" ");
    if (!column.value) return el("th", { scope: "col", class: classes, title: column.title }, column.label);
    return el("th", { scope: "col", class: classes, title: column.title },
      button(column.label, () => sortBy(index), { class: "sort", data: { key: `${key} sort ${index}` } }));
  });

  /** One click sorts, the next reverses, the third restores the original order. @param {number} index */
  function sortBy(index) {
    const downFirst = Boolean(columns[index].numeric);
    if (sorted.column !== index) Object.assign(sorted, { column: index, down: downFirst });
    else if (sorted.down === downFirst) sorted.down = !downFirst;
    else sorted.column = -1;
    fill();
  }

  function fill() {
    const column = columns[sorted.column];
    const order = column?.value ? [...rows].sort((a, b) => compareValues(column.value(a), column.value(b), sorted.down)) : rows;
    body.replaceChildren(...order.map((row) =>
      el("tr", attributes?.(row) ?? {}, columns.map(({ cell, numeric, head, class: name }) =>
        el(head ? "th" : "td", { scope: head && "row", class: [numeric && "numeric", name].filter(Boolean).join(" ") }, cell(row))))));
    heads.forEach((head, index) => {
      if (!columns[index].value) return;
      head.setAttribute("aria-sort", index !== sorted.column ? "none" : sorted.down ? "descending" : "ascending");
    });
  }

  if (!columns[sorted.column]?.value) sorted.column = -1;
  fill();
  return el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, groups, el("tr", {}, heads)), body);
}

/**
 * Numbers by size, texts in natural order; missing values come last in both directions.
 * @param {number | string | null | undefined} a
 * @param {number | string | null | undefined} b
 * @param {boolean} down
 */
function compareValues(a, b, down) {
  const missing = Number(a === null || a === undefined) - Number(b === null || b === undefined);
  if (missing !== 0 || a === null || a === undefined || b === null || b === undefined) return missing;
  const order = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));
  return down ? -order : order;
}
