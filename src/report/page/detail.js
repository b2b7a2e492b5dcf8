// One attack: its seed prompt, the responses of all defenders, rewards, and checkpoints.

/**
 * @param {Object} options
 * @param {SampleTable} options.table
 * @param {number} options.row
 * @param {(index: number) => string} options.textAt
 * @param {string} options.search the search text, which is highlighted
 * @param {boolean} options.redacted
 * @param {(id: string) => boolean} options.hasCheckpoint
 * @param {() => void} options.close
 * @param {(by: number) => void} options.move
 * @param {() => void} options.leave called before a link is followed
 * @returns {Node[]}
 */
function drawSample({ table, row, textAt, search, redacted, hasCheckpoint, close, move, leave }) {
  const { raw } = table;
  const nameAt = (/** @type {number} */ index) => clipped(textAt(index), LONGEST_NAME);
  const facts = [
    ["Run", raw.run], ["Variant", raw.variant], ["Step", raw.scope], ["Category", raw.category], ["Task", raw.task],
    ["Technique", raw.technique], ["Split", raw.split], ["Name of the seed", raw.seed_id], ["Learner", raw.learner],
  ].flatMap(([name, column]) => (nameAt(column[row]) ? [[name, nameAt(column[row])]] : []));
  const text = (/** @type {string} */ title, /** @type {number} */ index) => el("section", { class: "said" }, el("h4", {}, title),
    textAt(index) ? whatWasSaid(textAt(index), search) : el("p", { class: "note" }, redacted ? "Left out of this report." : "None."));
  const link = (/** @type {string} */ what, /** @type {number} */ index) => {
    const id = textAt(index);
    if (!id) return null;
    return el("p", { class: "made-by" }, `${what} `, hasCheckpoint(id) ? el("a", { class: "mono", href: checkpointLink(id), on: { click: leave } }, id) : el("span", { class: "mono" }, id));
  };
  return [
    el("header", { class: "detail-head" },
      el("h3", {}, `Attack ${raw.attack_number[row]}`),
      el("div", { class: "detail-tools" },
        button("↑", () => move(-1), { class: "small", "aria-label": "Previous sample" }),
        button("↓", () => move(1), { class: "small", "aria-label": "Next sample" }),
        button("Close", close, { class: "small", autofocus: true }))),
    el("dl", { class: "facts inline" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    text("Seed", raw.seed[row]),
    ...(raw.conversation[row] < 0 ? [] : [text("Earlier turns", raw.conversation[row])]),
    text("Attack", raw.attack[row]),
    ...[link("Written by", raw.attacker_checkpoint[row])].filter((node) => node !== null),
    el("h4", {}, counted(table.sameAttack(row).length, "response")),
    ...table.sameAttack(row).map((answer) => el("section", { class: "response-card", "aria-current": answer === row ? "true" : null },
      el("header", {}, el("strong", {}, nameAt(raw.defender[answer]) || "a defender"), judgement(nameAt(raw.verdict[answer]), nameAt(raw.truth[answer]), nameAt(raw.label[answer]))),
      textAt(raw.response[answer]) ? whatWasSaid(textAt(raw.response[answer]), search) : el("p", { class: "note" }, redacted ? "Left out of this report." : "None."),
      link("Answered by", raw.defender_checkpoint[answer]),
      drawReward(table, answer, nameAt(raw.learner[answer])))),
  ];
}

/**
 * The verdict, whether it agrees with the truth, and the label of the experts, who may err.
 * @param {string} verdict @param {string} truth @param {string} label
 */
function judgement(verdict, truth, label) {
  return el("span", { class: "judgement" }, verdictBadge(verdict),
    truth && (truth === verdict ? el("span", { class: "fine" }, "correct") : [el("span", { class: "fine" }, "wrong; truth"), verdictBadge(truth)]),
    label && [el("span", { class: "fine" }, "experts"), verdictBadge(label)]);
}

/** @param {SampleTable} table @param {number} row @param {string} learner */
function drawReward(table, row, learner) {
  const { raw } = table;
  /** @type {[string, number | null][]} */
  const values = [...raw.components.map(([name, column]) => /** @type {[string, number | null]} */ ([name.replaceAll("_", " "), column[row]])), ["reward", raw.reward[row]], ["advantage", raw.advantage[row]]];
  const present = values.filter(([, value]) => value !== null && value !== undefined);
  if (present.length === 0) return null;
  const most = Math.max(1e-9, ...present.map(([, value]) => Math.abs(value ?? 0)));
  return el("table", { class: "reward-table" }, el("caption", {}, learner ? `Reward of the ${learner}` : "Reward"),
    el("tbody", {}, present.map(([name, value]) => el("tr", { class: name === "reward" ? "sum" : null }, el("th", { scope: "row" }, name),
      el("td", { class: "numeric" }, withMinus((value ?? 0).toFixed(3))), el("td", { class: "bar-cell" }, rewardBar((value ?? 0) / most))))));
}

/** A bar to the right or left of zero. @param {number} share from −1 to 1 */
function rewardBar(share) {
  const width = Math.abs(share) * 48;
  return svg("svg", { class: "reward-bar", viewBox: "0 0 100 8", width: 100, height: 8, "aria-hidden": "true" },
    svg("line", { x1: 50, x2: 50, y1: 0, y2: 8 }),
    svg("rect", { class: share < 0 ? "below" : "above", x: share < 0 ? 50 - width : 50, y: 1.5, width, height: 5 }));
}

/** Displayed letters of a name, such as a category from a user's file. */
const LONGEST_NAME = 200;

/** Letters of a text that are displayed before "Show all". */
const FIRST_LETTERS = 20_000;

/**
 * A long word gets break opportunities at this distance. Browsers take time quadratic in the length of a word that
 * may break anywhere: ten seconds for 120,000 Thai letters.
 */
const LONG_WORD = /\S{500}\p{M}*(?=\S)/gu;

/** A text of a model or a file, of any length. @param {string} text @param {string} search @returns {Child[]} */
function whatWasSaid(text, search) {
  const paragraph = el("p", { class: "text" });
  const show = (/** @type {string} */ part) => paragraph.replaceChildren(...marked(part, search).flatMap((child) => (typeof child === "string" ? breakable(child) : [/** @type {Node} */ (child)])));
  const isFar = search !== "" && text.toLowerCase().indexOf(search.toLowerCase()) >= FIRST_LETTERS;
  if (text.length <= FIRST_LETTERS || isFar) {
    show(text);
    return [paragraph];
  }
  show(text.slice(0, FIRST_LETTERS).replace(/[\ud800-\udbff]$/, ""));
  const more = button(`Show all ${formatCount(text.length)} letters`, () => {
    show(text);
    more.remove();
  }, { class: "small" });
  return [paragraph, more];
}

/** A text with break opportunities in words that are too long for a line. @param {string} text @returns {(Node | string)[]} */
function breakable(text) {
  /** @type {(Node | string)[]} */
  const parts = [];
  let from = 0;
  for (const { 0: { length }, index } of text.matchAll(LONG_WORD)) {
    parts.push(text.slice(from, index + length), el("wbr"));
    from = index + length;
  }
  return [...parts, text.slice(from)];
}

/** The most highlights in a text. */
const MOST_MARKS = 1_000;

/** A text with the search text highlighted. @param {string} text @param {string} search @returns {Child[]} */
function marked(text, search) {
  const [lower, needle] = [text.toLowerCase(), search.toLowerCase()];
  // A few letters change their length in lower case; then the positions differ.
  if (!needle || lower.length !== text.length) return [text];
  /** @type {Child[]} */
  const parts = [];
  let from = 0;
  for (let at = lower.indexOf(needle); at >= 0 && parts.length < 2 * MOST_MARKS; at = lower.indexOf(needle, from)) {
    parts.push(text.slice(from, at), el("mark", {}, text.slice(at, at + needle.length)));
    from = at + needle.length;
  }
  return [...parts, text.slice(from)];
}
