// Formatting of numbers, times and names.

const NARROW_SPACE = "\u202f";
const MINUS = "\u2212";
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const integers = new Intl.NumberFormat("en");

/** @param {string} text */
const withMinus = (text) => text.replace("-", MINUS);

/** @param {number} count */
const formatCount = (count) => integers.format(count);

/** @param {number} count @param {string} one @param {string} [many] */
const counted = (count, one, many = `${one}s`) => `${formatCount(count)} ${count === 1 ? one : many}`;

/** A number that is not 0 gets as many digits as it needs not to read as 0, by the rule of the commands. @param {number} value @param {number} digits */
function visibleFixed(value, digits) {
  if (Math.abs(value) < 1e-12) return (0).toFixed(digits);
  for (let more = digits; more <= 6; more += 1) {
    const text = value.toFixed(more);
    if (/[1-9]/.test(text)) return text;
  }
  return value.toExponential(0);
}

/**
 * A number in a unit, without the unit: 0.746 of a share is `74.6`.
 * @param {number} value
 * @param {string} unit `share`, `nats`, `tokens`, `words` or `number`
 */
function formatNumber(value, unit) {
  if (!Number.isFinite(value)) return "–";
  if (unit === "share") return withMinus(visibleFixed(value * 100, 1));
  if (unit === "tokens" || unit === "words") return withMinus(visibleFixed(value, 1));
  if (unit === "nats") return withMinus(visibleFixed(value, 3));
  if (Number.isInteger(value)) return withMinus(integers.format(value));
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return withMinus(value.toExponential(2));
  if (size >= 1000) return withMinus(integers.format(Math.round(value)));
  return withMinus(value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3));
}

/** The suffix of a number in a unit. @param {string} unit */
function unitSuffix(unit) {
  if (unit === "share") return `${NARROW_SPACE}%`;
  return unit === "number" || !unit ? "" : ` ${unit}`;
}

/** @param {number | null | undefined} value @param {string} unit */
function formatValue(value, unit) {
  return value === null || value === undefined ? "–" : formatNumber(value, unit) + unitSuffix(unit);
}

/** A change, with its sign. @param {number} value @param {string} unit */
function formatChange(value, unit) {
  const text = formatNumber(value, unit);
  return value > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}

/** A value with its interval: `74.6 % (70.1 to 79.2) of 192`. @param {Interval} interval @param {string} unit */
function formatInterval(interval, unit) {
  const range = formatRange(interval, unit);
  const of = formatDenominator(interval.count, interval.undetermined);
  return formatValue(interval.value, unit) + (range && ` (${range})`) + (of && ` ${of}`);
}

/** The observations behind a value: `of 192, 3 undetermined`. @param {number | undefined} count @param {number | undefined} undetermined */
function formatDenominator(count, undetermined) {
  return undetermined ? `of ${formatCount(count ?? 0)}, ${formatCount(undetermined)} undetermined` : count ? `of ${formatCount(count)}` : "";
}

/** @param {Interval} interval @param {string} unit */
function formatRange(interval, unit) {
  if (interval.low === null || interval.high === null || interval.low === undefined || interval.high === undefined) return "";
  return `${formatNumber(interval.low, unit)} to ${formatNumber(interval.high, unit)}`;
}

/** @param {number} seconds */
function formatDuration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  // Rounded first, otherwise 119.7 s would be `1 min 60 s`.
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** @param {number} bytes */
function formatBytes(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (bytes >= 1000 && power < units.length - 1) {
    bytes /= 1000;
    power += 1;
  }
  return `${power === 0 ? bytes : bytes.toFixed(1)} ${units[power]}`;
}

/** A time in the time zone of the run, without letters: the reader may be in another time zone. @param {string} time */
function formatTime(time) {
  const parts = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(.*)$/.exec(time);
  if (!parts) return time;
  return `${parts[1]} ${parts[2]}${parts[3] === "Z" || parts[3] === "+00:00" ? " UTC" : ` ${parts[3]}`}`;
}

/** The name of a variant; empty without ablation and seed. @param {string} name */
const variantName = (name) => name || "as it stands";

/** @param {string} text @param {number} length */
const clipped = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

/** @param {string} text */
const capitalised = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The glyph of a state: colour is never the only sign. @type {Object<string, string>} */
const STATE_GLYPHS = {
  done: "✓", cached: "↺", running: "▸", waiting: "○", failed: "✕", skipped: "⤼",
  interrupted: "‖", killed: "✕", halted: "■",
};

/** @param {string} state */
const stateClass = (state) => (state in STATE_GLYPHS ? `state-${state}` : "state-waiting");

/** @param {string} state @param {string} [text] */
function stateBadge(state, text = state) {
  return el("span", { class: `badge ${stateClass(state)}` },
    el("span", { class: "glyph", "aria-hidden": "true" }, STATE_GLYPHS[state] ?? "○"), text);
}

/** @type {Object<string, string>} */
const VERDICT_GLYPHS = { negative: "✕", rejective: "⊘", positive: "✓" };

/** @param {string} verdict */
const verdictClass = (verdict) => (verdict in VERDICT_GLYPHS ? `verdict-${verdict}` : "verdict-none");

/** @param {string} verdict @param {string} [before] */
function verdictBadge(verdict, before = "") {
  return el("span", { class: `badge ${verdictClass(verdict)}` },
    el("span", { class: "glyph", "aria-hidden": "true" }, VERDICT_GLYPHS[verdict] ?? "·"), before + (verdict || "none"));
}
