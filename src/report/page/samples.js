// "Samples": a table of any length, of which only the visible rows are elements; filters, whose state is in the page's address;
// and the selected attack with all its responses.

const HEAD_HEIGHT = 34;
const MOST_ROWS = 400_000;
const PRINTED_ROWS = 50;
/** Displayed letters of a text in a row: more would only cost layout time. */
const SHOWN_LETTERS = 220;

/**
 * The columns; `from` is the least width of the table with this column, in pixels.
 * @type {{label: string, class: string, order?: string, from: number, width: string, numeric?: boolean}[]}
 */
const SAMPLE_COLUMNS = [
  { label: "Step", class: "step", order: "scope", from: 0, width: "minmax(130px, 0.6fr)" },
  { label: "Variant", class: "variant", order: "variant", from: 1060, width: "minmax(70px, 0.4fr)" },
  { label: "Technique", class: "technique", order: "technique", from: 1000, width: "minmax(84px, 0.35fr)" },
  { label: "Attack", class: "attack", from: 0, width: "minmax(120px, 1.5fr)" },
  { label: "Defender", class: "defender", order: "defender", from: 860, width: "minmax(60px, 0.35fr)" },
  { label: "Response", class: "response", from: 0, width: "minmax(120px, 1.5fr)" },
  { label: "Verdict", class: "verdict", order: "verdict", from: 0, width: "116px" },
  { label: "Reward", class: "reward", order: "reward", from: 600, width: "68px", numeric: true },
  { label: "Advantage", class: "advantage", order: "advantage", from: 760, width: "88px", numeric: true },
];

const VERDICT_COLUMN = SAMPLE_COLUMNS.findIndex((column) => column.class === "verdict");

/**
 * @param {{live: boolean, redacted: () => boolean, hasCheckpoint: (id: string) => boolean}} page
 */
function createSamples(page) {
  /** @type {SampleTable | null} */
  let table = null;
  /** @type {SampleFilter} */
  const filter = { text: "", wanted: new Map(), order: "", down: false };
  let rows = new Uint32Array(0);
  /** The keyboard's place in `rows`, and the row whose detail is open. */
  let active = 0;
  let openKey = "";
  let rowHeight = 34;
  let stacked = false;

  // ---- The frame, made once ----

  const search = /** @type {HTMLInputElement} */ (el("input", {
    type: "search", placeholder: "Search seed, attack, response", "aria-label": "Search seed, attack and response", autocomplete: "off", spellcheck: "false",
    on: { input: () => { clearTimeout(searchTimer); searchTimer = setTimeout(searched, 140); } },
  }));
  let searchTimer = 0;
  const orderSelect = /** @type {HTMLSelectElement} */ (el("select", { on: { change: () => {
    const [order, direction] = orderSelect.value.split("|");
    sortBy(order, direction === "down");
  } } }));
  const facetBox = el("div", { class: "facets" });
  const filters = /** @type {HTMLDetailsElement} */ (el("details", { class: "filters", open: !matchMedia("(max-width: 700px)").matches }, el("summary", {}, "Filters"), facetBox));
  const count = el("p", { class: "sample-count", role: "status" });
  const chips = el("div", { class: "chips" });
  const body = el("div", { class: "rows", role: "rowgroup" });
  const head = el("div", { class: "row head", role: "row" });
  const grid = el("div", {
    class: "grid", role: "grid", tabindex: 0, "aria-label": "Samples. Arrow keys move, Enter opens, Escape closes.", data: { key: "grid" },
  }, el("div", { class: "head-group", role: "rowgroup" }, head), body);
  const aside = el("aside", { class: "detail", "aria-label": "Selected sample", tabindex: -1, hidden: true });
  const dialog = /** @type {HTMLDialogElement} */ (el("dialog", { class: "detail-dialog", "aria-label": "Selected sample" }));
  const layout = el("div", { class: "sample-layout" }, grid, aside);
  const printed = el("div", { class: "print-only" });
  const message = el("p", { class: "note", role: "status" }, page.live ? "Waiting for samples …" : "Unpacking …");
  const tools = el("div", { class: "sample-tools" }, search, el("label", { class: "order" }, "Sort", orderSelect));
  const root = el("div", { class: "samples" }, message);

  const headButtons = SAMPLE_COLUMNS.map((column) => {
    const cell = el("div", { role: "columnheader", class: `cell ${column.class}${column.numeric ? " numeric" : ""}` },
      column.order ? button(column.label, () => turnOrder(column.order ?? ""), { class: "sort", tabindex: -1 }) : column.label);
    head.append(cell);
    return cell;
  });

  // ---- Rows: a ring of elements, each showing the row whose number falls to it ----

  /** @type {{element: HTMLElement, cells: HTMLElement[], shown: number}[]} */
  const ring = [];

  function makeRow() {
    const cells = SAMPLE_COLUMNS.map((column) => el("div", { role: "gridcell", class: `cell ${column.class}${column.numeric ? " numeric" : ""}` }, document.createTextNode("")));
    const element = el("div", { class: "row", role: "row", id: `sample-row-${ring.length}` }, cells);
    body.append(element);
    return { element, cells, shown: -1 };
  }

  /** Draws the visible rows. @param {boolean} [anew] whether the rows may have changed */
  function drawRows(anew = false) {
    if (!table) return;
    const visible = Math.ceil(grid.clientHeight / rowHeight) + 4;
    while (ring.length < visible) ring.push(makeRow());
    const from = Math.max(0, Math.floor(grid.scrollTop / rowHeight) - 2);
    for (let offset = 0; offset < ring.length; offset += 1) {
      const place = from + offset;
      const slot = ring[place % ring.length];
      if (slot.shown !== place || anew) fillRow(slot, place);
      slot.element.classList.toggle("active", place === active);
    }
    const slot = ring[active % ring.length];
    if (slot?.shown === active && active < rows.length) grid.setAttribute("aria-activedescendant", slot.element.id);
    else grid.removeAttribute("aria-activedescendant");
  }

  /** @param {{element: HTMLElement, cells: HTMLElement[], shown: number}} slot @param {number} place */
  function fillRow(slot, place) {
    slot.shown = place;
    const { element, cells } = slot;
    if (place >= shownRows() || !table) {
      element.hidden = true;
      return;
    }
    const row = rows[place];
    const { raw } = table;
    const verdict = textAt(raw.verdict[row]);
    const wrong = raw.truth[row] >= 0 && textAt(raw.truth[row]) !== verdict;
    element.hidden = false;
    element.style.transform = `translateY(${place * rowHeight}px)`;
    element.setAttribute("aria-rowindex", String(place + 2));
    element.setAttribute("aria-selected", String(openRow === row));
    const texts = [
      stacked ? whereOf(row) : nameAt(raw.scope[row]), nameAt(raw.variant[row]), nameAt(raw.technique[row]), snippet(textAt(raw.attack[row]) || textAt(raw.seed[row])), nameAt(raw.defender[row]), snippet(textAt(raw.response[row])),
      `${VERDICT_GLYPHS[verdict] ?? "·"} ${clipped(verdict, LONGEST_NAME) || "none"}${wrong ? " ≠" : ""}`, numberAt(raw.reward[row]), numberAt(raw.advantage[row]),
    ];
    texts.forEach((text, index) => {
      const node = /** @type {Text} */ (cells[index].firstChild);
      if (node.data !== text) node.data = text;
    });
    const name = `cell verdict ${verdictClass(verdict)}`;
    const verdictCell = cells[VERDICT_COLUMN];
    if (verdictCell.className !== name) verdictCell.className = name;
    verdictCell.title = wrong ? `the truth is ${nameAt(raw.truth[row])}` : "";
  }

  const textAt = (/** @type {number} */ index) => (index >= 0 && table ? table.raw.strings[index] ?? "" : "");
  const nameAt = (/** @type {number} */ index) => clipped(textAt(index), LONGEST_NAME);
  const numberAt = (/** @type {number | null} */ value) => (value === null || value === undefined ? "" : withMinus(value.toFixed(3)));
  const shownRows = () => Math.min(rows.length, MOST_ROWS);
  const whereOf = (/** @type {number} */ row) => {
    const variants = table?.facetsByName.get("variant");
    const variant = variants && variants.values.length > 1 ? nameAt(table.raw.variant[row]) : "";
    return `${nameAt(table.raw.scope[row])}${variant && ` · ${variant}`}`;
  };

  /** The part of a text that a row shows: around the match, if that is far inside. @param {string} text */
  function snippet(text) {
    if (text === "") return page.redacted() ? "(left out)" : "";
    const at = filter.text ? text.toLowerCase().indexOf(filter.text.toLowerCase()) : -1;
    const start = at > 40 ? at - 24 : 0;
    return (start ? "…" : "") + text.slice(start, start + SHOWN_LETTERS);
  }

  // ---- Filters and order ----

  /** @type {Map<string, HTMLSelectElement>} */
  const selects = new Map();

  function drawFacets() {
    if (!table) return;
    const names = table.facets.map((facet) => facet.name);
    if (names.join() === [...selects.keys()].join()) return;
    selects.clear();
    facetBox.replaceChildren(...table.facets.map((facet) => {
      const select = /** @type {HTMLSelectElement} */ (el("select", { data: { facet: facet.name }, on: { change: () => {
        if (select.value === "*") filter.wanted.delete(facet.name);
        else filter.wanted.set(facet.name, select.value.slice(1));
        changed();
      } } }));
      selects.set(facet.name, select);
      return el("label", {}, facet.label, select);
    }));
  }

  /** @param {Map<string, Uint32Array>} counts */
  function drawCounts(counts) {
    for (const facet of table?.facets ?? []) {
      const select = selects.get(facet.name);
      const numbers = counts.get(facet.name);
      if (!select || !numbers) continue;
      const wanted = filter.wanted.get(facet.name);
      const options = [["*", "any"], ...facet.values.map((value, code) => [`=${value}`, `${clipped(value, LONGEST_NAME) || "none"} (${formatCount(numbers[code])})`])];
      if (wanted !== undefined && !facet.values.includes(wanted)) options.push([`=${wanted}`, `${clipped(wanted, LONGEST_NAME)} (0)`]);
      while (select.options.length > options.length) select.remove(select.options.length - 1);
      options.forEach(([value, label], index) => {
        const option = select.options[index] ?? select.appendChild(document.createElement("option"));
        if (option.value !== value) option.value = value;
        if (option.text !== label) option.text = label;
      });
      select.value = wanted === undefined ? "*" : `=${wanted}`;
      select.classList.toggle("set", wanted !== undefined);
    }
    const orders = [["|up", page.live ? "newest first" : "original order"], ["|down", page.live ? "oldest first" : "reverse order"],
      ...(table?.orders ?? []).flatMap((name) => [[`${name}|down`, `${name.replaceAll("_", " ")}, high first`], [`${name}|up`, `${name.replaceAll("_", " ")}, low first`]]),
      ...SAMPLE_COLUMNS.flatMap(({ order, label }) => (order && !table?.orders.includes(order) && table?.facetsByName.has(order) ? [[`${order}|up`, label.toLowerCase()], [`${order}|down`, `${label.toLowerCase()}, backwards`]] : []))];
    if (orderSelect.options.length !== orders.length) orderSelect.replaceChildren(...orders.map(([value, label]) => el("option", { value }, label)));
    orderSelect.value = `${filter.order}|${filter.down ? "down" : "up"}`;
    SAMPLE_COLUMNS.forEach((column, index) => {
      if (column.order) headButtons[index].setAttribute("aria-sort", column.order !== filter.order ? "none" : filter.down ? "descending" : "ascending");
    });
    const clear = filter.wanted.size > 0 || filter.text ? [button("Clear all", clearFilters, { class: "small" })] : [];
    chips.replaceChildren(...[...filter.wanted].map(([name, value]) =>
      button(`${table?.facetsByName.get(name)?.label ?? name}: ${clipped(value, LONGEST_NAME) || "none"} ×`, () => {
        filter.wanted.delete(name);
        changed();
        search.focus();
      }, { class: "chip", "aria-label": `Remove the filter by ${name}` })), ...clear);
  }

  function searched() {
    filter.text = search.value.trim();
    changed();
  }

  function clearFilters() {
    filter.wanted.clear();
    filter.text = search.value = "";
    changed();
    search.focus();
  }

  /** @param {string} order @param {boolean} down */
  function sortBy(order, down) {
    Object.assign(filter, { order, down });
    changed();
  }

  /** @param {string} order */
  function turnOrder(order) {
    const downFirst = order === "reward" || order === "advantage";
    if (filter.order !== order) sortBy(order, downFirst);
    else if (filter.down === downFirst) sortBy(order, !downFirst);
    else sortBy("", false);
  }

  /** The reader changed the filters: scroll to the top, and update the address. */
  function changed() {
    apply();
    grid.scrollTop = 0;
    active = 0;
    drawRows(true);
    writeAddress();
  }

  function apply() {
    if (!table) return;
    const result = filterSamples(table, filter, page.live);
    rows = result.rows;
    drawFacets();
    drawCounts(result.counts);
    count.textContent = (rows.length === table.count ? `${counted(rows.length, "response")}` : `${formatCount(rows.length)} of ${counted(table.count, "response")}`)
      + (rows.length > MOST_ROWS ? `; the first ${formatCount(MOST_ROWS)} can be scrolled` : "");
    body.style.height = `${Math.max(1, shownRows()) * rowHeight}px`;
    grid.setAttribute("aria-rowcount", String(rows.length + 1));
    grid.classList.toggle("empty", rows.length === 0);
    drawRows(true);
  }

  // ---- The address ----

  let addressTimer = 0;
  /** Browsers limit changes of the address: one after a burst is enough. */
  function writeAddress() {
    clearTimeout(addressTimer);
    addressTimer = setTimeout(writeAddressNow, 150);
  }

  function writeAddressNow() {
    clearTimeout(addressTimer);
    try {
      history.replaceState(null, "", addressOf());
    } catch {
      // Some browsers forbid this to files; then the link is not updated.
    }
  }
  // A pending update of an earlier burst must not call the reader back.
  addEventListener("hashchange", () => clearTimeout(addressTimer));

  function addressOf() {
    const parts = new URLSearchParams();
    if (filter.text) parts.set("q", filter.text);
    for (const [name, value] of filter.wanted) parts.set(name, value);
    if (filter.order || filter.down) parts.set("sort", (filter.down ? "-" : "") + filter.order);
    if (openKey) parts.set("sample", openKey);
    return `#samples${parts.size ? `?${parts}` : ""}`;
  }

  /** Reads filters, order and the open sample from an address. @param {URLSearchParams} parts */
  function readAddress(parts) {
    filter.text = search.value = parts.get("q") ?? "";
    filter.wanted.clear();
    for (const [name] of STRING_FACETS) {
      const value = parts.get(name);
      if (value !== null) filter.wanted.set(name, value);
    }
    const sort = parts.get("sort") ?? "";
    Object.assign(filter, { down: sort.startsWith("-"), order: sort.replace(/^-/, "") });
    apply();
    grid.scrollTop = 0;
    active = 0;
    const key = parts.get("sample") ?? "";
    const row = table && key ? table.rowOf(key) : -1;
    if (row >= 0) {
      active = Math.max(0, rows.indexOf(row));
      revealActive();
      openDetail(row);
    } else if (key && !table) {
      openKey = key;
    } else {
      closeDetail(false);
    }
    drawRows(true);
  }

  // ---- The open sample ----

  let openRow = -1;
  const narrow = matchMedia("(max-width: 999px)");
  narrow.addEventListener("change", () => {
    if (openRow < 0) return;
    placeDetail(drawDetail(openRow));
  });

  /** @param {number} row */
  function openDetail(row) {
    if (!table) return;
    openRow = row;
    openKey = table.keyOf(row);
    placeDetail(drawDetail(row));
    drawRows(true);
    writeAddress();
  }

  /** Beside the table if there is space, otherwise over the page. @param {Node[]} nodes */
  function placeDetail(nodes) {
    const beside = !narrow.matches;
    aside.hidden = !beside;
    layout.classList.toggle("with-detail", beside);
    (beside ? aside : dialog).replaceChildren(...nodes);
    if (beside && dialog.open) dialog.close();
    if (!beside && !dialog.open) dialog.showModal();
    (beside ? aside : dialog).scrollTop = 0;
  }

  /** @param {boolean} [focus] whether the focus returns to the table */
  function closeDetail(focus = true) {
    openRow = -1;
    openKey = "";
    aside.hidden = true;
    layout.classList.remove("with-detail");
    if (dialog.open) dialog.close();
    drawRows(true);
    if (!focus) return;
    grid.focus({ preventScroll: true });
    writeAddress();
  }
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    closeDetail();
  });
  aside.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeDetail();
  });

  /** @param {number} row @returns {Node[]} */
  function drawDetail(row) {
    if (!table) return [];
    return drawSample({
      table, row, textAt, search: filter.text, redacted: page.redacted(), hasCheckpoint: page.hasCheckpoint,
      close: () => closeDetail(), move: (by) => moveTo(active + by, true),
      leave: () => {
        writeAddressNow();
        if (dialog.open) dialog.close();
      },
    });
  }

  // ---- Keyboard and pointer ----

  /** @param {number} place @param {boolean} [keepOpen] */
  function moveTo(place, keepOpen = openRow >= 0) {
    if (rows.length === 0) return;
    active = Math.min(shownRows() - 1, Math.max(0, place));
    revealActive();
    drawRows();
    if (keepOpen) openDetail(rows[active]);
  }

  /** Scrolls to the first row with a reward: the evaluation before training comes first, and has none. */
  function openAtRewards() {
    const place = table ? rows.findIndex((row) => table.raw.reward[row] !== null) : -1;
    if (place <= 0) return;
    active = place;
    grid.scrollTop = place * rowHeight;
  }

  function revealActive() {
    const top = active * rowHeight;
    const room = grid.clientHeight - headHeight() - rowHeight;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top > grid.scrollTop + room) grid.scrollTop = top - room;
  }
  const headHeight = () => (stacked ? 0 : HEAD_HEIGHT);

  grid.addEventListener("keydown", (event) => {
    if (event.target !== grid || event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(grid.clientHeight / rowHeight) - 2);
    const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: rows.length - 1 }[event.key];
    if (to !== undefined) moveTo(to);
    else if (event.key === "Enter" && rows.length > 0) {
      // The first Enter opens the detail and keeps the focus, so that arrows move through the samples; the second moves the focus
      // to the text.
      if (openRow === rows[active] && !aside.hidden) aside.focus();
      else openDetail(rows[active]);
    } else if (event.key === "Escape" && openRow >= 0) closeDetail();
    else return;
    event.preventDefault();
  });
  body.addEventListener("click", (event) => {
    const slot = ring.find(({ element }) => element.contains(/** @type {Node} */ (event.target)));
    if (!slot || slot.shown >= rows.length || String(getSelection()) !== "") return;
    active = slot.shown;
    openDetail(rows[active]);
  });
  let frame = 0;
  grid.addEventListener("scroll", () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      drawRows();
    });
  }, { passive: true });

  /** Shows the columns that fit, and only those that distinguish rows. */
  function fitColumns() {
    const width = grid.clientWidth;
    if (width === 0) return;
    stacked = width < 560;
    const variants = table?.facetsByName.get("variant")?.values.length ?? 0;
    const columns = SAMPLE_COLUMNS.map((column) => width >= column.from && (column.class !== "variant" || variants > 1));
    grid.classList.toggle("stacked", stacked);
    SAMPLE_COLUMNS.forEach((column, index) => grid.classList.toggle(`without-${column.class}`, !stacked && !columns[index]));
    grid.style.setProperty("--columns", SAMPLE_COLUMNS.filter((_, index) => columns[index]).map((column) => column.width).join(" "));
    const height = stacked ? 82 : 34;
    const top = grid.scrollTop / rowHeight;
    rowHeight = height;
    grid.style.setProperty("--row", `${height}px`);
    body.style.height = `${Math.max(1, shownRows()) * rowHeight}px`;
    grid.scrollTop = top * rowHeight;
    drawRows(true);
  }
  new ResizeObserver(fitColumns).observe(grid);

  // ---- Print: the first rows as a plain table ----

  function preparePrint() {
    if (!table) return;
    const { raw } = table;
    printed.replaceChildren(
      el("p", {}, `${count.textContent}${filter.text ? `, with “${filter.text}”` : ""}${[...filter.wanted].map(([name, value]) => `, ${name} ${value || "none"}`).join("")}; the first ${Math.min(PRINTED_ROWS, rows.length)}:`),
      el("table", {}, el("thead", {}, el("tr", {}, ["Step", "Attack", "Defender", "Response", "Verdict", "Reward"].map((label) => el("th", {}, label)))),
        el("tbody", {}, [...rows.slice(0, PRINTED_ROWS)].map((row) => el("tr", {}, [
          whereOf(row), clipped(textAt(raw.attack[row]), 400), nameAt(raw.defender[row]), clipped(textAt(raw.response[row]), 400), nameAt(raw.verdict[row]), numberAt(raw.reward[row]),
        ].map((text) => el("td", { class: "text" }, text)))))));
  }
  addEventListener("beforeprint", preparePrint);
  matchMedia("print").addEventListener("change", (event) => event.matches && preparePrint());

  // ---- For the page ----

  return {
    root,
    readAddress,
    /** @param {string} text */
    say(text) {
      message.textContent = text;
      message.hidden = text === "";
    },
    /**
     * Replaces the samples: filters, the open sample and the visible rows stay.
     * @param {Samples} raw
     */
    set(raw) {
      const first = table === null;
      const seen = !first && grid.scrollTop > 0 ? rows[Math.floor(grid.scrollTop / rowHeight)] : undefined;
      const seenKey = seen === undefined ? "" : table.keyOf(seen);
      const activeKey = !first && rows.length > 0 ? table.keyOf(rows[active]) : "";
      const within = grid.scrollTop % rowHeight;
      table = prepareSamples(raw);
      if (first) root.append(tools, filters, el("div", { class: "sample-line" }, count, chips), layout, dialog, printed);
      message.hidden = true;
      fitColumns();
      if (table.count === 0) this.say(page.live ? "No samples yet." : "No samples.");
      apply();
      const placeOf = (/** @type {string} */ key) => (key ? rows.indexOf(table.rowOf(key)) : -1);
      const place = placeOf(seenKey);
      if (place >= 0) grid.scrollTop = place * rowHeight + within;
      if (grid.scrollTop > 0 || document.activeElement === grid || openKey) active = Math.max(0, placeOf(activeKey));
      if (openKey) {
        const row = table.rowOf(openKey);
        if (row >= 0 && (first || row !== openRow)) {
          if (first) {
            active = Math.max(0, rows.indexOf(row));
            revealActive();
          }
          openRow = row;
          if (first) placeDetail(drawDetail(row));
        }
      }
      if (first && !page.live && !openKey && filter.wanted.size === 0 && filter.text === "") openAtRewards();
      drawRows(true);
    },
  };
}
