// Layout of a graph: layers by the longest path, long lines led past the boxes between, boxes of a layer in the order with the
// fewest crossings, and each near its neighbours. Works in `flow` (along the lines) and `across`.

/**
 * @typedef {Object} Box
 * @property {number} flow size along the lines
 * @property {number} across
 *
 * @typedef {Object} Placed
 * @property {{flow: number, across: number}[]} places the corner of each box
 * @property {{flow: number, across: number}[][]} lines the points of each line
 * @property {number} flow the whole size
 * @property {number} across
 */

/**
 * @param {Box[]} boxes
 * @param {[number, number][]} edges
 * @param {{flow: number, across: number}} gap
 * @returns {Placed}
 */
function layOut(boxes, edges, gap) {
  const kept = withoutImplied(boxes.length, withoutCycles(boxes.length, edges));
  const layerOf = layersOf(boxes.length, kept);
  const depth = Math.max(0, ...layerOf) + 1;

  // A line over several layers passes through a slot in each, which no box may take.
  /** @type {{layer: number, across: number, at: number, near: number[]}[]} */
  const slots = boxes.map((box, index) => ({ layer: layerOf[index], across: box.across, at: 0, near: [] }));
  const chains = kept.map(([from, to]) => {
    const chain = [from];
    for (let layer = layerOf[from] + 1; layer < layerOf[to]; layer += 1) chain.push(slots.push({ layer, across: 6, at: 0, near: [] }) - 1);
    chain.push(to);
    for (let index = 1; index < chain.length; index += 1) {
      slots[chain[index - 1]].near.push(chain[index]);
      slots[chain[index]].near.push(chain[index - 1]);
    }
    return chain;
  });
  const layers = Array.from({ length: depth }, (_, layer) => slots.flatMap((slot, index) => (slot.layer === layer ? [index] : [])));
  orderLayers(layers, slots);
  placeAcross(layers, slots, gap.across);

  const starts = [];
  const thickness = layers.map((layer) => Math.max(0, ...layer.map((slot) => boxes[slot]?.flow ?? 0)));
  let at = 0;
  for (const thick of thickness) {
    starts.push(at);
    at += thick + gap.flow;
  }
  const least = Math.min(0, ...slots.map((slot) => slot.at - slot.across / 2));
  const middle = (/** @type {number} */ slot) => slots[slot].at - least;
  return {
    places: boxes.map((box, index) => ({ flow: starts[layerOf[index]], across: middle(index) - box.across / 2 })),
    lines: chains.map((chain) => chain.flatMap((slot, index) => {
      const start = starts[slots[slot].layer];
      if (index === 0) return [{ flow: start + boxes[slot].flow, across: middle(slot) }];
      if (index === chain.length - 1) return [{ flow: start, across: middle(slot) }];
      return [{ flow: start, across: middle(slot) }, { flow: start + thickness[slots[slot].layer], across: middle(slot) }];
    })),
    flow: Math.max(0, at - gap.flow),
    across: Math.max(0, ...slots.map((slot) => slot.at - least + slot.across / 2)),
  };
}

/** @param {number} count @param {[number, number][]} edges */
function nextOf(count, edges) {
  const next = Array.from({ length: count }, () => /** @type {Set<number>} */ (new Set()));
  for (const [from, to] of edges) if (from !== to) next[from].add(to);
  return next;
}

/** Without edges that close a cycle, which boxes around loops may produce. @param {number} count @param {[number, number][]} edges */
function withoutCycles(count, edges) {
  const next = nextOf(count, edges);
  const state = new Uint8Array(count);
  /** @type {[number, number][]} */
  const kept = [];
  const visit = (/** @type {number} */ at) => {
    state[at] = 1;
    for (const to of next[at]) {
      if (state[to] === 1) continue;
      kept.push([at, to]);
      if (state[to] === 0) visit(to);
    }
    state[at] = 2;
  };
  for (let index = 0; index < count; index += 1) if (state[index] === 0) visit(index);
  return kept;
}

/** Without edges that a longer path implies. @param {number} count @param {[number, number][]} edges */
function withoutImplied(count, edges) {
  const next = nextOf(count, edges);
  const reaches = (/** @type {number} */ from, /** @type {number} */ to, seen = new Set()) => {
    if (from === to) return true;
    if (seen.has(from)) return false;
    seen.add(from);
    return [...next[from]].some((step) => reaches(step, to, seen));
  };
  return edges.filter(([from, to]) => ![...next[from]].some((step) => step !== to && reaches(step, to)));
}

/** Each box after all that it needs; a box without needs just before the first that needs it. @param {number} count @param {[number, number][]} edges */
function layersOf(count, edges) {
  const layer = new Array(count).fill(0);
  for (let round = 0; round < count; round += 1) {
    let moved = false;
    for (const [from, to] of edges) {
      if (layer[to] > layer[from]) continue;
      layer[to] = layer[from] + 1;
      moved = true;
    }
    if (!moved) break;
  }
  for (let index = 0; index < count; index += 1) {
    const out = edges.filter(([from]) => from === index);
    if (out.length > 0 && !edges.some(([, to]) => to === index)) layer[index] = Math.min(...out.map(([, to]) => layer[to])) - 1;
  }
  return layer;
}

/** @param {number[][]} layers @param {{at: number, near: number[], layer: number}[]} slots */
function orderLayers(layers, slots) {
  const rank = new Array(slots.length).fill(0);
  const number = (/** @type {number[]} */ layer) => layer.forEach((slot, index) => (rank[slot] = index));
  layers.forEach(number);
  for (let sweep = 0; sweep < 8; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const layer of down ? layers : [...layers].reverse()) {
      const weight = new Map(layer.map((slot) => {
        const before = slots[slot].near.filter((other) => (down ? slots[other].layer < slots[slot].layer : slots[other].layer > slots[slot].layer));
        return [slot, before.length ? before.reduce((sum, other) => sum + rank[other], 0) / before.length : rank[slot]];
      }));
      layer.sort((a, b) => (weight.get(a) ?? 0) - (weight.get(b) ?? 0));
      number(layer);
    }
  }
}

/** @param {number[][]} layers @param {{at: number, across: number, near: number[]}[]} slots @param {number} gap */
function placeAcross(layers, slots, gap) {
  const settle = (/** @type {number[]} */ layer, /** @type {number[]} */ wanted) => {
    let edge = -Infinity;
    layer.forEach((slot, index) => {
      slots[slot].at = Math.max(wanted[index], edge + slots[slot].across / 2);
      edge = slots[slot].at + slots[slot].across / 2 + gap;
    });
    // Pushing goes only one way: move the layer back by the average push. Large boxes weigh most, so that a small box beside a
    // loop moves rather than the loop.
    const weight = (/** @type {number} */ slot) => slots[slot].across ** 2;
    const whole = layer.reduce((sum, slot) => sum + weight(slot), 0) || 1;
    const pushed = layer.reduce((sum, slot, index) => sum + weight(slot) * (slots[slot].at - wanted[index]), 0) / whole;
    for (const slot of layer) slots[slot].at -= pushed;
  };
  for (const layer of layers) settle(layer, layer.map(() => 0));
  for (let round = 0; round < 12; round += 1) {
    for (const layer of round % 2 === 0 ? layers : [...layers].reverse()) {
      settle(layer, layer.map((slot) => {
        const { near, at } = slots[slot];
        const whole = near.reduce((sum, other) => sum + slots[other].across, 0);
        return near.length ? near.reduce((sum, other) => sum + slots[other].at * slots[other].across, 0) / whole : at;
      }));
    }
  }
}
