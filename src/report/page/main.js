// The page: its sections in order, the header above them, and navigation by the address.

const root = document.documentElement;
const live = root.dataset.live === "1";

/** The data embedded in the page: read once and removed, so that sections may use these names. */
const packedReport = takeData("report");
const packedSamples = takeData("samples");

/** @param {string} id @returns {string | null} */
function takeData(id) {
  const script = document.querySelector(`script[id="${id}"]`);
  script?.remove();
  return script?.textContent ?? null;
}

/** @type {Report | null} */
let report = null;

const samples = createSamples({
  live,
  redacted: () => report?.redacted ?? false,
  hasCheckpoint: (id) => report?.checkpoints.some((checkpoint) => checkpoint.id === id) ?? false,
});

/**
 * The sections. `part` is the data of a section: null omits it, and unchanged data leave it as it is.
 * @type {{id: string, title: string, part: (report: Report) => any, draw: (part: any, report: Report) => Node[]}[]}
 */
const SECTIONS = [
  { id: "outcome", title: "Results", part: (r) => (r.headline.rows.length ? r.headline : null), draw: (part) => drawHeadline(part) },
  { id: "cross-play", title: "Cross-play", part: (r) => matricesOf(r, "cross_play"), draw: (part) => drawMatrices(part) },
  { id: "curves", title: "Curves", part: (r) => some({ panels: r.panels, columns: r.headline.columns }, r.panels), draw: ({ panels, columns }) => drawPanels(panels, columns) },
  { id: "evaluator", title: "Evaluator", part: (r) => matricesOf(r, "confusion"), draw: (part) => drawMatrices(part) },
  { id: "coverage", title: "Coverage", part: (r) => matricesOf(r, "coverage"), draw: (part) => drawMatrices(part) },
  { id: "pipeline", title: "Pipeline", part: (r) => some(r.graphs, r.graphs.flatMap((graph) => graph.stages)), draw: (part) => drawGraphs(part) },
  { id: "samples", title: "Samples", part: () => (hasSamples() ? "samples" : null), draw: () => [samples.root] },
  { id: "checkpoints", title: "Checkpoints", part: (r) => some(r.checkpoints, r.checkpoints), draw: (part) => drawCheckpoints(part) },
  { id: "runs", title: "Runs and machine", part: (r) => some(r.runs.map((run) => (live ? { ...run, seconds: Math.round(run.seconds / 10) * 10 } : run)), r.runs), draw: (part) => drawRuns(part) },
  { id: "reproduce", title: "Reproduce", part: (r) => some(r.runs.map(({ run, reproduce }) => ({ run, reproduce })), r.runs.flatMap((run) => run.reproduce)), draw: (part) => drawReproduce(part) },
  { id: "log", title: "Log", part: (r) => some(r.log, r.log), draw: (part) => drawLog(part) },
];

/** @template T @param {T} part @param {any[]} list */
const some = (part, list) => (list.length > 0 ? part : null);
/** @param {Report} r @param {string} section */
const matricesOf = (r, section) => {
  const found = r.matrices.filter((matrix) => matrix.section === section && matrix.values.length > 0);
  return some(found, found);
};
const hasSamples = () => live || packedSamples !== null;

// ---- Above the sections ----

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const bar = /** @type {HTMLElement} */ (document.getElementById("bar"));
const header = el("header", { class: "page-head" });
const links = el("div", { class: "bar-links" });
const connection = el("p", { class: "notice lost", role: "status", hidden: true });
const themeButton = button("", turnTheme, { class: "theme" });

/** @param {Report} r */
function drawHeader(r) {
  const notices = [...r.notices, ...(r.redacted ? ["Redacted: the texts of prompts and models are left out of this report."] : [])];
  redraw(header, [
    el("h1", {}, r.title),
    el("p", { class: "byline" }, live ? "Live" : "Report", ` · triplay ${r.triplay} · ${formatTime(r.made)}`),
    el("ul", { class: "statuses" }, r.runs.map((run) => el("li", {}, stateBadge(run.status), el("span", { class: "mono" }, run.run),
      el("span", { class: "fine" }, [formatDuration(run.seconds), `${formatCount(run.ran + run.cached)} of ${counted(run.nodes, "node")}`, run.cached > 0 && `${formatCount(run.cached)} cached`, run.failed > 0 && `${formatCount(run.failed)} failed`].filter(Boolean).join(" · "))))),
    ...notices.map((notice) => el("p", { class: "notice" }, notice)),
  ]);
}

/** @param {string[]} lines @returns {Node[]} */
function drawLog(lines) {
  const log = el("pre", { class: "log", tabindex: 0, role: "log", "aria-label": "Log", data: { key: "log" } }, lines.join("\n"));
  const old = main.querySelector(".log");
  const follows = !old || old.scrollTop + old.clientHeight >= old.scrollHeight - 8;
  if (follows) queueMicrotask(() => (log.scrollTop = log.scrollHeight));
  return [log];
}

// ---- The theme ----

const THEME_KEY = "triplay theme";

function currentTheme() {
  return root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function nameTheme() {
  const other = currentTheme() === "dark" ? "light" : "dark";
  themeButton.textContent = other === "dark" ? "☾" : "☀";
  themeButton.setAttribute("aria-label", `Change to the ${other} theme`);
  themeButton.title = `Change to the ${other} theme`;
}

function turnTheme() {
  root.dataset.theme = currentTheme() === "dark" ? "light" : "dark";
  nameTheme();
  try {
    localStorage.setItem(THEME_KEY, root.dataset.theme);
  } catch {
    // A browser may not keep storage for files; then the choice lasts as long as the page.
  }
}

function restoreTheme() {
  try {
    const kept = localStorage.getItem(THEME_KEY);
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch {
    // As above.
  }
  nameTheme();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
}

// ---- The sections ----

/** @type {Map<string, {element: HTMLElement, body: HTMLElement, link: HTMLElement, shown: string}>} */
const drawn = new Map();

const inSight = new IntersectionObserver((entries) => {
  for (const entry of entries) visible.set(entry.target.id, entry.isIntersecting);
  const first = SECTIONS.find(({ id }) => visible.get(id));
  for (const [id, { link }] of drawn) {
    if (first?.id === id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-112px 0px -55% 0px" });
/** @type {Map<string, boolean>} */
const visible = new Map();
/** Whether samples are in sight or close to it. */
let samplesNear = false;
const nearSamples = new IntersectionObserver((entries) => (samplesNear = entries.some((entry) => entry.isIntersecting)), { rootMargin: "300px 0px" });

/** Draws what changed. @param {Report} r */
function show(r) {
  report = r;
  document.title = r.title;
  keepInPlace(() => {
    drawHeader(r);
    for (const section of SECTIONS) showSection(section, r);
  });
}

/** Keeps the visible content in place when content above it grows. @param {() => void} draw */
function keepInPlace(draw) {
  const anchor = [...drawn.values()].find(({ element }) => element.getBoundingClientRect().bottom > 64)?.element;
  const before = anchor?.getBoundingClientRect().top;
  draw();
  const after = anchor?.getBoundingClientRect().top;
  if (scrollY > 0 && before !== undefined && after !== undefined && after !== before) scrollBy({ top: after - before, behavior: "instant" });
}

/** @param {Samples} raw */
function showSamples(raw) {
  keepInPlace(() => samples.set(raw));
}

/** @param {typeof SECTIONS[number]} section @param {Report} r */
function showSection(section, r) {
  const part = section.part(r);
  const old = drawn.get(section.id);
  if (part === null) {
    old?.element.remove();
    old?.link.remove();
    drawn.delete(section.id);
    return;
  }
  const shown = JSON.stringify(part);
  if (old?.shown === shown || (old && isSelectedIn(old.body))) return;
  const place = old ?? addSection(section);
  place.shown = shown;
  try {
    redraw(place.body, section.draw(part, r));
  } catch (error) {
    console.error(error);
    place.body.replaceChildren(el("p", { class: "notice" }, `This section could not be drawn: ${error instanceof Error ? error.message : error}`));
  }
}

/** Whether the reader has selected text there, perhaps to copy it: then it is redrawn later. @param {HTMLElement} body */
function isSelectedIn(body) {
  const selection = getSelection();
  return selection !== null && !selection.isCollapsed && body.contains(selection.anchorNode);
}

/** @param {typeof SECTIONS[number]} section */
function addSection({ id, title }) {
  const body = el("div", { class: "section-body" });
  const element = el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), body);
  const link = el("a", { href: `#${id}` }, title);
  const order = SECTIONS.findIndex((section) => section.id === id);
  const following = SECTIONS.slice(order + 1).map((section) => drawn.get(section.id)).find((place) => place);
  main.insertBefore(element, following?.element ?? null);
  links.insertBefore(link, following?.link ?? null);
  inSight.observe(element);
  if (id === "samples") nearSamples.observe(element);
  const place = { element, body, link, shown: "" };
  drawn.set(id, place);
  return place;
}

// ---- The address ----

function followAddress() {
  const address = location.hash.slice(1);
  if (address === "samples" || address.startsWith("samples?")) {
    if (address !== "samples") samples.readAddress(new URLSearchParams(address.slice("samples?".length)));
    drawn.get("samples")?.element.scrollIntoView();
  } else if (address.startsWith("checkpoint=")) {
    let id = address.slice("checkpoint=".length);
    try {
      id = decodeURIComponent(id);
    } catch {
      // Not encoded: used as it is.
    }
    showCheckpoint(id);
  } else if (address) {
    document.getElementById(address)?.scrollIntoView();
  }
}

/** @param {string} id */
function showCheckpoint(id) {
  const place = drawn.get("checkpoints");
  if (!report || !place) return;
  remembered("checkpoint", { id: "" }).id = id;
  redraw(place.body, drawCheckpoints(report.checkpoints));
  place.element.scrollIntoView();
  place.element.querySelector("tr[aria-current]")?.scrollIntoView({ block: "nearest" });
  document.getElementById("lineage")?.focus({ preventScroll: true });
}

// ---- Beginning ----

restoreTheme();
bar.append(el("a", { class: "brand", href: "#main" }, "triplay"), links, themeButton);
main.append(connection, header);
addEventListener("hashchange", followAddress);
/** @type {Element[]} */
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...main.querySelectorAll("details:not([open]):not(.filters)")];
  for (const fold of unfolded) fold.setAttribute("open", "");
});
addEventListener("afterprint", () => {
  for (const fold of unfolded) fold.removeAttribute("open");
});

if (live) {
  let first = true;
  follow({
    report(r) {
      show(r);
      if (first) followAddress();
      first = false;
    },
    samples: showSamples,
    wantsSamples: () => samplesNear,
    lost(since) {
      connection.hidden = since === null;
      if (since !== null) connection.textContent = `Connection lost ${formatDuration(Math.round((Date.now() - since) / 1000))} ago: triplay does not answer. This page shows its last answer; trying again every second.`;
    },
  });
} else {
  show(JSON.parse(packedReport ?? "null"));
  followAddress();
  // After the first paint: unpacking takes a moment.
  if (packedSamples !== null) setTimeout(() => unpackSamples(packedSamples).then((raw) => {
    showSamples(raw);
    if (/^#samples\b/.test(location.hash)) drawn.get("samples")?.element.scrollIntoView();
  }).catch((error) => {
    console.error(error);
    samples.say(`The samples could not be read: ${error.message}.`);
  }), 30);
}
