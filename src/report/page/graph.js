// The pipeline: loops as boxes around their stages, each stage with its state and progress. On a narrow screen, and for screen
// readers, the same as a list.

const NODE_WIDTH = 150;
const NODE_HEIGHT = 48;
/** Stages of a loop are in one line up to this width. */
const LONGEST_LINE = 880;
const LOOP_PADDING = 14;
const LOOP_HEAD = 30;

/** @param {Graph[]} graphs @returns {Node[]} */
function drawGraphs(graphs) {
  if (graphs.length === 1) return drawGraph(graphs[0]);
  return graphs.map((graph, index) => el("details", { class: "fold", open: index === 0, data: { key: `graph ${graph.run}` } },
    el("summary", {}, el("h3", {}, graph.run)), drawGraph(graph)));
}

/** @param {Graph} graph @returns {Node[]} */
function drawGraph(graph) {
  const rest = "Point at a stage to see its inputs and the stages that need it. Implied lines are left out.";
  const readout = el("p", { class: "readout", "aria-live": "polite" }, rest);
  const { root, width, height } = placeGraph(graph);
  const canvas = svg("svg", {
    class: "graph", role: "group", "aria-label": `The pipeline of ${graph.run}: ${counted(graph.stages.length, "stage or loop", "stages and loops")}`,
    viewBox: `-1 -1 ${width + 2} ${height + 2}`, width: width + 2, height: height + 2,
  }, root);
  // Shrinks to fit as long as letters are legible; beyond that it scrolls.
  canvas.style.minWidth = `${Math.round(width * 0.72)}px`;
  for (const node of canvas.querySelectorAll("[data-stage]")) {
    const stage = Number(node.getAttribute("data-stage"));
    const tell = () => {
      readout.textContent = describeStage(graph, stage);
      mark(canvas, graph, stage);
    };
    const leave = () => {
      readout.textContent = rest;
      mark(canvas, graph, null);
    };
    setAttributes(node, { on: { pointerenter: tell, focus: tell, pointerleave: leave, blur: leave } });
  }
  return [
    el("div", { class: "graph-picture" }, el("div", { class: "scroller graph-scroller", data: { key: `graph ${graph.run} scroller` } }, canvas), readout),
    el("div", { class: "graph-list" }, stageList(graph, null)),
  ];
}

/** @param {Graph} graph @param {number} stage */
function neighbours(graph, stage) {
  return {
    needs: graph.edges.filter(([, to]) => to === stage).map(([from]) => from),
    needed: graph.edges.filter(([from]) => from === stage).map(([, to]) => to),
  };
}

/** @param {Graph} graph @param {number} index */
function describeStage(graph, index) {
  const stage = graph.stages[index];
  const { needs, needed } = neighbours(graph, index);
  const names = (/** @type {number[]} */ list) => list.map((other) => graph.stages[other].id).join(", ");
  return [
    `${stage.id} (${stage.kind}): ${stage.state}, ${stage.done} of ${stage.total}`,
    stage.seconds > 0 && formatDuration(stage.seconds),
    needs.length > 0 && `needs ${names(needs)}`,
    needed.length > 0 && `needed by ${names(needed)}`,
  ].filter(Boolean).join(" · ");
}

/** Highlights a stage and its neighbours. @param {Element} canvas @param {Graph} graph @param {number | null} stage */
function mark(canvas, graph, stage) {
  const near = new Set(stage === null ? [] : [...neighbours(graph, stage).needs, ...neighbours(graph, stage).needed]);
  for (const node of canvas.querySelectorAll("[data-stage]")) {
    node.classList.toggle("near", near.has(Number(node.getAttribute("data-stage"))));
  }
}

/**
 * Places a whole graph: the content of every loop is laid out first, then the loop is a box. Lines join boxes of the same loop.
 * @param {Graph} graph
 */
function placeGraph(graph) {
  const { stages } = graph;
  /** @type {Map<number | null, number[]>} */
  const inside = new Map();
  stages.forEach((stage, index) => inside.set(stage.parent, [...(inside.get(stage.parent) ?? []), index]));
  const pathOf = (/** @type {number} */ index) => {
    const path = [index];
    for (let up = stages[index].parent; up !== null && path.length <= stages.length; up = stages[up].parent) path.unshift(up);
    return path;
  };
  const paths = stages.map((_, index) => pathOf(index));

  // An edge belongs to the innermost loop that holds both ends, between that loop's own boxes.
  /** @type {Map<number | null, [number, number][]>} */
  const edges = new Map();
  for (const [from, to] of graph.edges) {
    let depth = 0;
    while (paths[from][depth] === paths[to][depth] && depth < paths[from].length && depth < paths[to].length) depth += 1;
    if (depth >= paths[from].length || depth >= paths[to].length) continue;
    const loop = depth === 0 ? null : paths[from][depth - 1];
    edges.set(loop, [...(edges.get(loop) ?? []), [paths[from][depth], paths[to][depth]]]);
  }

  /** @param {number | null} loop @returns {{width: number, height: number, node: SVGElement}} */
  const place = (loop) => {
    const members = inside.get(loop) ?? [];
    const parts = members.map((index) => (inside.has(index) ? place(index) : { width: NODE_WIDTH, height: NODE_HEIGHT, node: drawStage(stages[index], index) }));
    const local = (edges.get(loop) ?? []).map(([from, to]) => /** @type {[number, number]} */ ([members.indexOf(from), members.indexOf(to)]));
    // A loop of plain stages is laid out as a line, unless it is long; everything else goes downwards.
    const along = () => layOut(parts.map(({ width, height }) => ({ flow: width, across: height })), local, { flow: 26, across: 14 });
    const down = () => layOut(parts.map(({ width, height }) => ({ flow: height, across: width })), local, { flow: 34, across: 22 });
    const line = loop !== null && members.every((index) => !inside.has(index)) ? along() : null;
    const sideways = line !== null && line.flow <= LONGEST_LINE;
    const placed = sideways ? line : down();
    const point = (/** @type {{flow: number, across: number}} */ { flow, across }) => (sideways ? [flow, across] : [across, flow]);
    const group = svg("g", {}, placed.lines.map((line) => drawLine(line.map(point), sideways)),
      parts.map(({ node }, index) => {
        const [x, y] = point(placed.places[index]);
        return svg("g", { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, node);
      }));
    const [width, height] = point(placed);
    if (loop === null) return { width, height, node: group };
    group.setAttribute("transform", `translate(${LOOP_PADDING} ${LOOP_HEAD})`);
    const outer = { width: Math.max(width, 130) + 2 * LOOP_PADDING, height: height + LOOP_HEAD + LOOP_PADDING };
    return { ...outer, node: drawLoop(stages[loop], loop, outer, group) };
  };
  const { width, height, node } = place(null);
  return { root: node, width, height };
}

/** @param {number[][]} points @param {boolean} sideways */
function drawLine(points, sideways) {
  let path = `M${points[0].map((at) => at.toFixed(1)).join(",")}`;
  for (let index = 1; index < points.length; index += 1) {
    const [[x1, y1], [x2, y2]] = [points[index - 1], points[index]];
    const bend = sideways ? [(x1 + x2) / 2, y1, (x1 + x2) / 2, y2] : [x1, (y1 + y2) / 2, x2, (y1 + y2) / 2];
    path += `C${[...bend, x2, y2].map((at) => at.toFixed(1)).join(",")}`;
  }
  const [x, y] = points[points.length - 1];
  const head = sideways ? `M${x - 6},${y - 3.5}L${x},${y}L${x - 6},${y + 3.5}` : `M${x - 3.5},${y - 6}L${x},${y}L${x + 3.5},${y - 6}`;
  return svg("path", { class: "edge", d: path + head });
}

/** @param {Stage} stage @param {number} index */
function drawStage(stage, index) {
  const share = stage.total > 0 ? stage.done / stage.total : 0;
  const seconds = stage.seconds > 0 ? formatDuration(stage.seconds) : "";
  return svg("g", { class: `stage ${stateClass(stage.state)}`, tabindex: 0, role: "img", "aria-label": `${stage.id}, ${stage.kind}: ${stage.state}, ${stage.done} of ${stage.total}`, data: { stage: index, key: `stage ${stage.id}` } },
    svg("rect", { class: "box", width: NODE_WIDTH, height: NODE_HEIGHT, rx: 7 }),
    stateIcon(stage.state, 17, 17),
    svg("text", { class: "stage-label", x: 32, y: 21 }, clipped(stage.label, 17)),
    svg("text", { class: "stage-fine", x: 32, y: 37 }, clipped(stage.kind, 12)),
    svg("text", { class: "stage-fine", x: NODE_WIDTH - 10, y: 37, "text-anchor": "end" }, stage.total > 1 ? `${stage.done}/${stage.total}` : seconds),
    stage.state === "running" && stage.total > 0 && svg("rect", { class: "progress", x: 8, y: NODE_HEIGHT - 5, width: (NODE_WIDTH - 16) * share, height: 2.5, rx: 1 }));
}

/** @param {Stage} stage @param {number} index @param {{width: number, height: number}} size @param {SVGElement} group */
function drawLoop(stage, index, { width, height }, group) {
  return svg("g", {},
    svg("g", { class: `loop ${stateClass(stage.state)}`, tabindex: 0, role: "img", "aria-label": `loop ${stage.id}: ${stage.state}, ${stage.done} of ${stage.total}`, data: { stage: index, key: `stage ${stage.id}` } },
      svg("rect", { class: "box", width, height, rx: 10 }),
      stateIcon(stage.state, 17, 15),
      svg("text", { class: "stage-label", x: 32, y: 19.5 }, clipped(stage.label, Math.floor((width - 100) / 7))),
      svg("text", { class: "stage-fine", x: width - 12, y: 19.5, "text-anchor": "end" }, `${stage.done}/${stage.total}`)),
    group);
}

/** A shape for each state. @param {string} state @param {number} x @param {number} y */
function stateIcon(state, x, y) {
  const shapes = {
    done: "M-3.5,0.2L-1,2.7L3.6,-2.6",
    cached: "M3.2,-1.8A3.6,3.6 0 1 0 3.6,0.8M3.6,-4V-1.4H1",
    running: "M-2,-3.2L3.4,0L-2,3.2Z",
    failed: "M-3,-3L3,3M3,-3L-3,3",
    skipped: "M-3.4,0H3.4M1,-2.4L3.4,0L1,2.4",
  };
  return svg("g", { class: "icon", transform: `translate(${x} ${y})` }, svg("circle", { r: 7.5 }), state in shapes && svg("path", { d: shapes[state] }));
}

/** @param {Graph} graph @param {number | null} loop @returns {HTMLElement} */
function stageList(graph, loop) {
  return el("ul", {}, graph.stages.flatMap((stage, index) => (stage.parent !== loop ? [] : [el("li", {},
    stateBadge(stage.state, stage.label), el("span", { class: "fine" }, ` ${stage.kind} · ${stage.state} · ${stage.done} of ${stage.total}`),
    graph.stages.some((other) => other.parent === index) && stageList(graph, index))])));
}
