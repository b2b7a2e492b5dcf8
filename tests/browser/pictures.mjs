// Takes the pictures of docs/report.md: `node pictures.mjs [--out FOLDER] REPORT.html…` writes them into docs/images, or
// into FOLDER. Each picture is of the first report that has what it shows. `node pictures.mjs --check` takes them of the
// fixture into a temporary folder and compares them with what docs/report.md refers to.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { assemble, makeReport, makeSamples } from "./fixture.mjs";
import { launch, open } from "./browser.mjs";

const DOCS = fileURLToPath(new URL("../../docs/", import.meta.url));
const MOST_BYTES = 200_000;
const MARGIN = 8;

/** @typedef {import("puppeteer-core").Page} Page */

/**
 * The pictures: the report that each is of has `needs`, `prepare` does what a reader does before, `shows` is what is in the
 * picture. Without `shows` it is the top of the page, as high as the window.
 * @type {{name: string, needs: string, height?: number, prepare?: (page: Page) => Promise<unknown>, shows?: string}[]}
 */
const PICTURES = [
  { name: "report", needs: "#outcome", height: 800 },
  { name: "report-training", needs: ".panel", prepare: (page) => showPanels(page, "Training", 3), shows: "#curves .panel-group:not([hidden])" },
  { name: "report-curves", needs: ".panel", prepare: (page) => showPanels(page, "Evaluation", 6).then(() => pointAt(page, "attacks that succeed", 2)), shows: "#curves .panel-group:not([hidden])" },
  { name: "report-cross-play", needs: "#cross-play", shows: "#cross-play .matrix-figure:first-child" },
  { name: "report-confusion", needs: "#evaluator", shows: "#evaluator .matrix-figure:first-child" },
  { name: "report-attack", needs: "#samples", height: 920, prepare: openAttack, shows: ".sample-line, .sample-layout" },
  { name: "report-lineage", needs: "#checkpoints", prepare: openCheckpoint, shows: ".checkpoints" },
  { name: "report-two-runs", needs: ".statuses li:nth-child(2)", shows: ".page-head, #outcome tr:nth-child(-n+5)" },
];

/** Leaves the first panels of one group. @param {Page} page @param {string} title @param {number} count */
async function showPanels(page, title, count) {
  await page.$$eval("#curves .panel-group", (groups, title, count) => {
    for (const group of groups) {
      group.hidden = group.querySelector("h3").textContent !== title;
      [...group.querySelectorAll(".panel")].forEach((panel, index) => (panel.hidden = index >= count));
    }
  }, title, count);
  await settled(page);
}

/** Waits until what has a new width is drawn for it. @param {Page} page */
function settled(page) {
  return page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100))));
}

/** Points at a place of the chart with this title. @param {Page} page @param {string} title @param {number} place */
async function pointAt(page, title, place) {
  await page.$$eval("#curves .panel", (panels, title) => {
    panels.find((panel) => panel.querySelector(".panel-title").textContent.toLowerCase().startsWith(title)).querySelector(".chart-svg").focus();
  }, title);
  for (const key of ["Home", ...Array(place).fill("ArrowRight")]) await page.keyboard.press(key);
}

/** Opens the attack with the highest reward of the last red step. @param {Page} page */
async function openAttack(page) {
  const steps = await page.$$eval("select[data-facet=scope] option", (options) => options.map((option) => option.value.slice(1)));
  const scope = steps.findLast((step) => /\bred\[/.test(step));
  await page.evaluate((address) => (location.hash = address), `#samples?${new URLSearchParams({ scope, sort: "-reward" })}`);
  await page.waitForSelector(".chips .chip");
  await page.focus("[role=grid].grid");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".detail:not([hidden]) .reward-table");
  await page.evaluate(() => document.activeElement.blur());
}

/** Opens the last checkpoint of the attacker. @param {Page} page */
async function openCheckpoint(page) {
  await page.$$eval("#checkpoints tbody th a", (links) => links.findLast((link) => /\bred\[/.test(link.textContent)).click());
  await page.waitForSelector(".chain > li[aria-current]");
  await page.evaluate(() => document.activeElement.blur());
}

/** The rectangle around all of these elements, with a margin. @param {Page} page @param {string} selector */
async function around(page, selector) {
  const found = await page.$$eval(selector, (elements) => {
    const boxes = elements.map((element) => element.getBoundingClientRect()).filter(({ width }) => width > 0);
    const [left, top] = [Math.min(...boxes.map((box) => box.left)), Math.min(...boxes.map((box) => box.top))];
    const [right, bottom] = [Math.max(...boxes.map((box) => box.right)), Math.max(...boxes.map((box) => box.bottom))];
    return { x: left + scrollX, y: top + scrollY, width: right - left, height: bottom - top };
  });
  const [x, y] = [Math.max(0, Math.floor(found.x - MARGIN)), Math.max(0, Math.floor(found.y - MARGIN))];
  return { x, y, width: Math.ceil(found.x + found.width + MARGIN) - x, height: Math.ceil(found.y + found.height + MARGIN) - y };
}

/** Takes all pictures. @param {string[]} reports @param {string} folder @returns {Promise<string[]>} their files' names */
async function takePictures(reports, folder) {
  mkdirSync(folder, { recursive: true });
  const browser = await launch();
  try {
    const taken = [];
    for (const picture of PICTURES) taken.push(await takePicture(browser, picture, reports, folder));
    return taken;
  } finally {
    await browser.close();
  }
}

/** @param {import("puppeteer-core").Browser} browser @param {typeof PICTURES[number]} picture @param {string[]} reports @param {string} folder */
async function takePicture(browser, { name, needs, height = 900, prepare, shows }, reports, folder) {
  for (const report of reports) {
    const { page, wrong } = await open(browser, pathToFileURL(report).href, { height });
    if (!(await page.$(needs))) {
      await page.close();
      continue;
    }
    // It would lie over what is shown.
    if (shows) await page.$eval("#bar", (bar) => (bar.hidden = true));
    await prepare?.(page);
    await settled(page);
    const clip = shows && (await around(page, shows));
    // In sight: beyond the window a picture would need another size of the window, at which charts are drawn anew.
    if (clip) await page.evaluate((top) => scrollTo({ top, behavior: "instant" }), clip.y);
    const file = join(folder, `${name}.png`);
    const bytes = await page.screenshot({ path: file, captureBeyondViewport: false, ...(clip ? { clip } : {}) });
    assert.deepEqual(wrong, [], `${report} complains`);
    assert.ok(bytes.length <= MOST_BYTES, `${file} must have at most ${MOST_BYTES} bytes, found ${bytes.length}`);
    await page.close();
    console.log(`${file}: ${bytes.length} bytes, of ${report}`);
    return `${name}.png`;
  }
  throw new Error(`\`${name}.png\` must be of a report that has \`${needs}\`, found none among ${reports.join(", ")}`);
}

/** Takes the pictures of the fixture and compares their names with the guide's. */
async function check() {
  const folder = mkdtempSync(join(tmpdir(), "triplay-pictures-"));
  try {
    const report = join(folder, "report.html");
    writeFileSync(report, assemble({ report: makeReport(), samples: makeSamples(5_000) }));
    const taken = await takePictures([report], folder);
    const guide = readFileSync(join(DOCS, "report.md"), "utf8");
    const shown = [...guide.matchAll(/!\[([^\]]*)\]\(images\/([\w-]+\.png)\)/g)].map(([, alt, file]) => ({ alt, file }));
    assert.deepEqual(shown.map(({ file }) => file).sort(), [...taken].sort(), "docs/report.md shows each picture once, and no other");
    for (const { alt, file } of shown) {
      assert.ok(alt.length >= 40, `the alternative text of ${file} in docs/report.md must say what to see, found "${alt}"`);
      for (const path of [join(folder, file), join(DOCS, "images", file)]) assert.ok(isPicture(readFileSync(path)), `${path} must be a picture of the page`);
    }
    console.log(`${shown.length} pictures, as docs/report.md shows them`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Whether it is a PNG with something in it: one colour alone takes a few hundred bytes. @param {Buffer} bytes */
function isPicture(bytes) {
  const isPng = bytes.subarray(0, 8).equals(Buffer.from("\x89PNG\r\n\x1a\n", "latin1"));
  return isPng && bytes.length > 4_000 && bytes.readUInt32BE(16) >= 300 && bytes.readUInt32BE(20) >= 150;
}

const { values, positionals } = parseArgs({ options: { check: { type: "boolean" }, out: { type: "string" } }, allowPositionals: true });
if (values.check) {
  await check();
} else if (positionals.length > 0) {
  await takePictures(positionals.map((report) => resolve(report)), resolve(values.out ?? join(DOCS, "images")));
} else {
  console.error("usage: node pictures.mjs [--out FOLDER] REPORT.html… | --check");
  process.exitCode = 2;
}
