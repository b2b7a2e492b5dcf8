// Checkpoints: the list of models, and the origin of each, back to the first.

/** A link to a checkpoint. Characters that an address may hold stay readable. @param {string} id */
function checkpointLink(id) {
  return `#checkpoint=${encodeURIComponent(id).replace(/%(3A|2F|5B|5D|2C)/g, decodeURIComponent)}`;
}

/**
 * The chain of parents from the first model to this one.
 * @param {Checkpoint[]} checkpoints
 * @param {string} id
 * @returns {{chain: Checkpoint[], missing: string | null}} `missing` is a parent that is not among them
 */
function lineageOf(checkpoints, id) {
  const byId = new Map(checkpoints.map((checkpoint) => [checkpoint.id, checkpoint]));
  /** @type {Checkpoint[]} */
  const chain = [];
  const seen = new Set();
  let at = byId.get(id);
  let missing = null;
  while (at && !seen.has(at.id)) {
    seen.add(at.id);
    chain.unshift(at);
    missing = at.parent && !byId.has(at.parent) ? at.parent : null;
    at = at.parent ? byId.get(at.parent) : undefined;
  }
  return { chain, missing };
}

/** @param {Checkpoint[]} checkpoints @returns {Node[]} */
function drawCheckpoints(checkpoints) {
  const selected = remembered("checkpoint", { id: "" });
  const several = new Set(checkpoints.map(({ run }) => run)).size > 1;
  const name = (/** @type {Checkpoint} */ checkpoint) => (several ? checkpoint.id : checkpoint.node);
  /** @type {Column<Checkpoint>[]} */
  const columns = [
    { label: "Checkpoint", head: true, class: "mono", value: (row) => row.id, cell: (row) => el("a", { href: checkpointLink(row.id), data: { key: `row ${row.id}` } }, row.node) },
    ...(several ? [{ label: "Run", class: "mono", value: (row) => row.run, cell: (row) => row.run }] : []),
    { label: "Kind", value: (row) => row.kind, cell: (row) => row.kind },
    { label: "From", class: "mono", value: (row) => row.parent, cell: (row) => row.parent && el("a", { href: checkpointLink(row.parent) }, row.parent.slice(row.parent.indexOf(":") + 1)) },
    { label: "Time", numeric: true, value: (row) => row.seconds, cell: (row) => formatDuration(row.seconds) },
    { label: "Size", numeric: true, value: (row) => row.bytes, cell: (row) => formatBytes(row.bytes) },
    { label: "Digest", class: "mono", value: (row) => row.digest, cell: (row) => el("span", { title: row.digest }, row.digest.slice(0, 10)) },
    { label: "Kept", value: (row) => (row.path ? "yes" : "no"), cell: (row) => (row.path ? "yes" : "no") },
  ];
  return [
    el("div", { class: "checkpoints" },
      el("div", { class: "scroller tall", role: "region", tabindex: 0, "aria-label": "Checkpoints", data: { key: "checkpoints" } }, sortableTable({
        key: "checkpoints", caption: "Checkpoints", columns, rows: checkpoints,
        attributes: (row) => ({ "aria-current": row.id === selected.id ? "true" : null }),
      })),
      el("div", { class: "lineage", id: "lineage", tabindex: -1, "aria-live": "polite" }, drawLineage(checkpoints, selected.id, name))),
  ];
}

/**
 * @param {Checkpoint[]} checkpoints
 * @param {string} id
 * @param {(checkpoint: Checkpoint) => string} name
 * @returns {Child[]}
 */
function drawLineage(checkpoints, id, name) {
  if (!id) return [el("p", { class: "note" }, "Choose a checkpoint to see its lineage.")];
  const { chain, missing } = lineageOf(checkpoints, id);
  if (chain.length === 0) return [el("h3", {}, "Lineage"), el("p", { class: "note" }, "Not among the checkpoints: ", el("span", { class: "mono" }, id))];
  const chosen = chain[chain.length - 1];
  /** @param {Checkpoint} step */
  const item = (step) => el("li", { "aria-current": step === chosen ? "true" : null },
    el("a", { class: "mono", href: checkpointLink(step.id) }, name(step)),
    el("span", { class: "fine" }, `${step.kind} · ${formatDuration(step.seconds)}`));
  return [
    el("h3", {}, "Lineage"),
    el("p", { class: "fine" }, `${counted(chain.length - 1, "step")} from the first model`),
    missing && el("p", { class: "note" }, "It starts from a checkpoint that is not listed: ", el("span", { class: "mono" }, missing)),
    el("ol", { class: "chain" }, foldSteps(chain).map((part) => (Array.isArray(part)
      ? el("li", { class: "between" }, el("details", { data: { key: `chain ${part[0].id}` } },
        el("summary", {}, counted(part.length, "step"), " like these"), el("ol", { class: "chain" }, part.map(item))))
      : item(part)))),
    el("dl", { class: "facts" }, [
      ["Key", chosen.key], ["Digest", chosen.digest], ["Path", chosen.path ?? "no longer in the cache"], ["Other inputs", chosen.inputs.join("\n") || "none"],
    ].flatMap(([term, text]) => [el("dt", {}, term), el("dd", { class: "mono" }, text)])),
  ];
}

/**
 * Folds the middle of a long phase: steps whose names differ only in their numbers.
 * @param {Checkpoint[]} chain
 * @returns {(Checkpoint | Checkpoint[])[]}
 */
function foldSteps(chain) {
  const pattern = (/** @type {Checkpoint} */ step) => step.node.replace(/\[\d+\](?!.*\[)/, "[]");
  /** @type {(Checkpoint | Checkpoint[])[]} */
  const parts = [];
  for (let start = 0; start < chain.length;) {
    let end = start + 1;
    while (end < chain.length && pattern(chain[end]) === pattern(chain[start])) end += 1;
    if (end - start > 4) parts.push(chain[start], chain.slice(start + 1, end - 1), chain[end - 1]);
    else parts.push(...chain.slice(start, end));
    start = end;
  }
  return parts;
}
