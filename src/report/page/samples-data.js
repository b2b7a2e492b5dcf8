// The samples as columns, with filters and orders. Independent of the page. Each filter is one number to compare in each row; a
// search scans the table of strings once, then needs one look-up for each text and row.

/**
 * @typedef {Object} Facet a column that rows are filtered by
 * @property {string} name as in the page's address
 * @property {string} label
 * @property {string[]} values the distinct values, in natural order
 * @property {Uint32Array} codes for each row an index in `values`
 *
 * @typedef {Object} SampleTable
 * @property {number} count
 * @property {Samples} raw
 * @property {Facet[]} facets those with more than one value
 * @property {Map<string, Facet>} facetsByName all of them
 * @property {string[]} orders the names of what can be sorted by
 * @property {(name: string) => Float64Array | null} keysOf the sort keys of an order; NaN for none
 * @property {(row: number) => string} keyOf a name of the row that stays valid when rows are added
 * @property {(key: string) => number} rowOf
 * @property {(row: number) => number[]} sameAttack all responses to the row's attack
 * @property {(text: string) => Uint8Array} search the strings that contain it
 *
 * @typedef {Object} SampleFilter
 * @property {string} text
 * @property {Map<string, string>} wanted the wanted value of each filtered facet
 * @property {string} order name of an order; empty for the original order
 * @property {boolean} down
 */

/** Facets that are strings in the data, and derived ones. */
const STRING_FACETS = [
  ["run", "Run"], ["variant", "Variant"], ["iteration", "Iteration"], ["phase", "Phase"], ["scope", "Step"], ["split", "Split"],
  ["category", "Category"], ["task", "Task"], ["technique", "Technique"], ["defender", "Defender"],
  ["verdict", "Verdict"], ["truth", "Truth"], ["label", "Experts' label"], ["judged", "Judged"], ["learner", "Learner"],
];

/** The phase of `play[1]/red[03]` is `red`. @param {string} scope */
const phaseOf = (scope) => scope.slice(scope.lastIndexOf("/") + 1).replace(/\[[^\]]*\]$/, "");

/** @param {Samples} raw @returns {SampleTable} */
function prepareSamples(raw) {
  const count = raw.attack_number.length;
  const text = (/** @type {number} */ index) => (index >= 0 ? raw.strings[index] ?? "" : "");
  /** @type {Object<string, (row: number) => string>} */
  const derived = {
    iteration: (row) => String(raw.iteration[row]),
    phase: (row) => phaseOf(text(raw.scope[row])),
    judged: (row) => (raw.truth[row] < 0 || raw.verdict[row] < 0 ? "" : text(raw.truth[row]) === text(raw.verdict[row]) ? "right" : "wrong"),
  };
  const all = STRING_FACETS.map(([name, label]) => makeFacet(name, label, count,
    derived[name] ?? ((row) => text(raw[name][row])), derived[name] ? null : raw[name]));

  /** @type {Map<string, Float64Array>} */
  const numbers = new Map();
  const facetsByName = new Map(all.map((facet) => [facet.name, facet]));
  const columns = new Map(/** @type {[string, (number | null)[]][]} */ ([["reward", raw.reward], ["advantage", raw.advantage], ...raw.components]));
  const keysOf = (/** @type {string} */ name) => {
    const facet = facetsByName.get(name);
    const column = columns.get(name);
    if (!numbers.has(name) && facet) numbers.set(name, Float64Array.from(facet.codes));
    if (!numbers.has(name) && column) numbers.set(name, Float64Array.from(column, (value) => value ?? NaN));
    return numbers.get(name) ?? null;
  };

  // Rows of an attack: the first, and from each the next.
  /** @type {Map<number, number>} */
  const first = new Map();
  const next = new Int32Array(count).fill(-1);
  for (let row = count - 1; row >= 0; row -= 1) {
    next[row] = first.get(raw.attack_number[row]) ?? -1;
    first.set(raw.attack_number[row], row);
  }
  const sameAttack = (/** @type {number} */ row) => {
    const rows = [];
    for (let at = first.get(raw.attack_number[row]) ?? -1; at >= 0; at = next[at]) rows.push(at);
    return rows;
  };

  /** @type {string[] | null} */
  let lower = null;
  const search = (/** @type {string} */ wanted) => {
    lower ??= raw.strings.map((string) => string.toLowerCase());
    const needle = wanted.toLowerCase();
    return Uint8Array.from(lower, (string) => Number(string.includes(needle)));
  };

  return {
    count, raw, facetsByName, keysOf, sameAttack, search,
    facets: all.filter((facet) => facet.values.length > 1),
    orders: [...columns.keys()].filter((name) => columns.get(name)?.some((value) => value !== null)),
    keyOf: (row) => `${raw.attack_number[row]}.${sameAttack(row).indexOf(row)}`,
    rowOf: (key) => {
      const parts = /^(\d+)\.(\d+)$/.exec(key);
      const start = parts ? first.get(Number(parts[1])) : undefined;
      return start === undefined || !parts ? -1 : sameAttack(start)[Number(parts[2])] ?? -1;
    },
  };
}

/**
 * @param {string} name
 * @param {string} label
 * @param {number} count
 * @param {(row: number) => string} valueOf
 * @param {number[] | null} indices the indices, if the value follows from an index of strings
 * @returns {Facet}
 */
function makeFacet(name, label, count, valueOf, indices) {
  /** @type {Map<string, number>} */
  const codeOf = new Map();
  /** @type {Map<number, number>} */
  const codeOfIndex = new Map();
  const codes = new Uint32Array(count);
  for (let row = 0; row < count; row += 1) {
    let code = indices ? codeOfIndex.get(indices[row]) : undefined;
    if (code === undefined) {
      const value = valueOf(row);
      code = codeOf.get(value) ?? codeOf.size;
      codeOf.set(value, code);
      if (indices) codeOfIndex.set(indices[row], code);
    }
    codes[row] = code;
  }
  const found = [...codeOf.keys()];
  const values = [...found].sort((a, b) => Number(a === "") - Number(b === "") || collator.compare(a, b));
  const place = new Map(values.map((value, index) => [value, index]));
  const moved = Uint32Array.from(found, (value) => place.get(value) ?? 0);
  for (let row = 0; row < count; row += 1) codes[row] = moved[codes[row]];
  return { name, label, values, codes };
}

/**
 * The rows that pass, sorted, and for each value of each facet the number of rows if it were chosen.
 * @param {SampleTable} table
 * @param {SampleFilter} filter
 * @param {boolean} newestFirst if no order is chosen
 * @returns {{rows: Uint32Array, counts: Map<string, Uint32Array>}}
 */
function filterSamples(table, filter, newestFirst) {
  const { raw, facets, count } = table;
  const hits = filter.text ? table.search(filter.text) : null;
  const wanted = facets.map((facet) => {
    const value = filter.wanted.get(facet.name);
    return value === undefined ? -1 : facet.values.indexOf(value);
  });
  // A value that does not exist, as from an old link, is filtered by all the same: no row passes.
  const asked = facets.flatMap((facet, index) => (filter.wanted.has(facet.name) ? [index] : []));
  const unknown = [...filter.wanted].some(([name, value]) => !(table.facetsByName.get(name)?.values ?? []).includes(value));
  const counts = facets.map((facet) => new Uint32Array(facet.values.length));
  const passing = new Uint32Array(count);
  let length = 0;
  for (let row = 0; row < count; row += 1) {
    if (hits && !(hits[raw.attack[row]] || hits[raw.response[row]] || hits[raw.seed[row]] || hits[raw.conversation[row]])) continue;
    let failed = -1;
    let failures = 0;
    for (const index of asked) {
      if (facets[index].codes[row] === wanted[index]) continue;
      failed = index;
      failures += 1;
      if (failures > 1) break;
    }
    if (failures > 1) continue;
    if (failures === 1) counts[failed][facets[failed].codes[row]] += 1;
    else {
      for (let index = 0; index < facets.length; index += 1) counts[index][facets[index].codes[row]] += 1;
      passing[length] = row;
      length += 1;
    }
  }
  const rows = passing.slice(0, unknown ? 0 : length);
  const keys = filter.order ? table.keysOf(filter.order) : null;
  if (keys) sortRows(rows, keys, filter.down);
  else if (newestFirst !== (filter.order === "" && filter.down)) rows.reverse();
  return { rows, counts: new Map(facets.map((facet, index) => [facet.name, counts[index]])) };
}

/** Rows without a value come last in both directions; rows with equal values keep their order. @param {Uint32Array} rows @param {Float64Array} keys @param {boolean} down */
function sortRows(rows, keys, down) {
  const sign = down ? -1 : 1;
  rows.sort((a, b) => {
    const [left, right] = [keys[a], keys[b]];
    if (left !== left || right !== right) return Number(left !== left) - Number(right !== right) || a - b;
    return sign * (left - right) || a - b;
  });
}

/**
 * Reads the samples embedded in a report: base64 of gzip of JSON.
 * @param {string} base64
 * @returns {Promise<Samples>}
 */
async function unpackSamples(base64) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser cannot unpack them (it has no DecompressionStream); a newer one can");
  }
  const packed = Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}
