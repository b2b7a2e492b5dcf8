// What was run, where, with which parameters, and how to run it again.

/** @param {RunInfo[]} runs @returns {Node[]} */
function drawRuns(runs) {
  const facts = [
    ["Pipeline", (run) => `${run.pipeline} (${run.file})`],
    ["Status", (run) => stateBadge(run.status)],
    ["Began", (run) => formatTime(run.began)],
    ["Took", (run) => formatDuration(run.seconds)],
    ["Nodes", (run) => `${formatCount(run.nodes)}: ${formatCount(run.ran)} ran, ${formatCount(run.cached)} from the cache, ${formatCount(run.failed)} failed, ${formatCount(run.skipped)} skipped`],
    ["triplay", (run) => run.triplay],
  ].map(([name, cell]) => ({ name: String(name), cells: runs.map(/** @type {(run: RunInfo) => Child} */ (cell)) }));
  const machine = sideBySide(runs.map((run) => run.machine));
  const variants = runs.flatMap((run) => run.variants.map(([name, values]) => ({ head: runs.length > 1 ? [el("span", { class: "fine" }, run.run), variantName(name)] : variantName(name), values })));
  return [
    el("h3", {}, runs.length > 1 ? "Runs" : "Run"),
    scroller("runs", "Runs", comparison("What ran", runs.map((run) => run.run), facts)),
    el("h3", {}, "Parameters"),
    ...drawParameters(variants),
    el("h3", {}, "Machine"),
    scroller("machine", "Machine", comparison("Machine", runs.map((run) => run.run), machine)),
    ...runs.map((run) => el("details", { class: "fold", data: { key: `yaml ${run.run}` } },
      el("summary", {}, el("h3", {}, runs.length > 1 ? `pipeline.yaml of ${run.run}` : "pipeline.yaml")),
      el("div", { class: "code" }, copyButton(run.pipeline_yaml, `pipeline.yaml of ${run.run}`), el("pre", { tabindex: 0 }, run.pipeline_yaml)))),
  ];
}

/** Names with their values in each column, and whether the values differ. @param {[string, string][][]} columns */
function sideBySide(columns) {
  const maps = columns.map((pairs) => new Map(pairs));
  return [...new Set(columns.flatMap((pairs) => pairs.map(([name]) => name)))].map((name) => {
    const cells = maps.map((map) => map.get(name) ?? null);
    return { name, cells, differs: new Set(cells).size > 1 };
  });
}

/** @param {{head: Child | Child[], values: [string, string][]}[]} variants @returns {Node[]} */
function drawParameters(variants) {
  const rows = sideBySide(variants.map(({ values }) => values));
  const different = rows.filter((row) => row.differs).length;
  const shown = remembered("parameters", { differing: false });
  const table = comparison("Parameters", variants.map(({ head }) => head), rows);
  const choose = () => table.classList.toggle("only-differing", shown.differing);
  choose();
  const box = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", data: { key: "differing" }, on: { change: () => {
    shown.differing = box.checked;
    choose();
  } } }));
  box.checked = shown.differing;
  return [
    ...(variants.length > 1 ? [el("label", { class: "check" }, box, `Only those that differ (${different} of ${rows.length})`)] : []),
    scroller("parameters", "Parameters", table),
  ];
}

/**
 * @param {string} caption
 * @param {(Child | Child[])[]} heads
 * @param {{name: string, cells: Child[], differs?: boolean}[]} rows
 */
function comparison(caption, heads, rows) {
  return el("table", { class: "comparison" }, el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, el("td"), heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, rows.map(({ name, cells, differs }) => el("tr", { class: differs ? "differs" : null },
      el("th", { scope: "row" }, name, differs && el("span", { class: "differs-mark", title: "differs" }, " ≠")),
      cells.map((cell) => el("td", {}, cell ?? "–"))))));
}

/** @param {RunInfo[]} runs @returns {Node[]} */
function drawReproduce(runs) {
  return runs.flatMap((run) => [
    ...(runs.length > 1 ? [el("h3", {}, run.run)] : []),
    el("ol", { class: "commands" }, run.reproduce.map((command) =>
      el("li", { class: "code" }, copyButton(command, command), el("pre", { tabindex: 0 }, command)))),
  ]);
}
