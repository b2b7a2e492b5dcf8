// What a reader sees and does, in Chromium. With TRIPLAY_REPORT=/path/report.html the tests that fit any report run on
// that one too.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { HOSTILE, assemble, makeReport, makeSamples } from "./fixture.mjs";
import { busiestTask, launch, open } from "./browser.mjs";

const ROWS = 50_000;
const GRID = ".grid[role=grid]";
const folder = mkdtempSync(join(tmpdir(), "triplay-page-"));
const samples = makeSamples(ROWS);
const report = makeReport();
/** @type {import("puppeteer-core").Browser} */
let browser;

/** @param {string} name @param {object} parts */
function written(name, parts) {
  const file = join(folder, name);
  writeFileSync(file, assemble(parts));
  return pathToFileURL(file).href;
}
const address = written("report.html", { report, samples });

before(async () => {
  browser = await launch();
});
after(async () => {
  await browser.close();
  rmSync(folder, { recursive: true, force: true });
});

const text = (page, selector) => page.$eval(selector, (element) => element.textContent);
const countShown = async (page) => Number((await text(page, ".sample-count")).split(" ")[0].replaceAll(",", ""));
const textOf = (index) => (index >= 0 ? samples.strings[index] : "");
const rowsWhere = (passes) => samples.run.reduce((sum, _, row) => sum + Number(passes(row)), 0);
const focusedIn = (page, selector) => page.evaluate((selector) => document.activeElement?.matches(selector) ?? false, selector);

/** @param {import("puppeteer-core").Page} page @param {string} name @param {string} value */
const filterBy = (page, name, value) => page.select(`select[data-facet="${name}"]`, `=${value}`);

async function search(page, wanted) {
  await page.$eval("input[type=search]", (input) => (input.value = ""));
  await page.type("input[type=search]", wanted);
  await page.waitForFunction((wanted) => decodeURIComponent(location.hash.replaceAll("+", " ")).includes(`q=${wanted}`), {}, wanted);
}

for (const [name, url] of [["the fixture", address], ...(process.env.TRIPLAY_REPORT ? [["TRIPLAY_REPORT", pathToFileURL(resolve(process.env.TRIPLAY_REPORT)).href]] : [])]) {
  describe(`any report (${name})`, () => {
    for (const width of [1280, 390]) {
      for (const dark of [false, true]) {
        test(`opens without complaint and fits the page, ${width} px, ${dark ? "dark" : "light"}`, async () => {
          const { page, wrong } = await open(browser, url, { width, dark });
          assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
          const dim = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
          assert.equal(Number(/\d+/.exec(dim)[0]) < 128, dark);
          assert.deepEqual(wrong, []);
          await page.close();
        });
      }
    }

    test("has one first heading, and no level is skipped", async () => {
      const { page } = await open(browser, url);
      const levels = await page.$$eval("h1, h2, h3, h4", (headings) => headings.map((heading) => Number(heading.tagName[1])));
      assert.equal(levels.filter((level) => level === 1).length, 1);
      levels.reduce((last, level) => {
        assert.ok(level <= last + 1, `h${level} after h${last}`);
        return level;
      }, 0);
      await page.close();
    });

    test("every number of a matrix can be read on its colour, in light and dark", async () => {
      for (const dark of [false, true]) {
        const { page } = await open(browser, url, { dark });
        const worst = await page.$$eval("td.heat:not(.none)", (cells) => Math.min(21, ...cells.map((cell) => {
          const light = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map((value) => {
            const share = Number(value) / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
          }).reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
          const style = getComputedStyle(cell);
          const [a, b] = [light(style.color), light(style.backgroundColor)];
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        })));
        assert.ok(worst >= 4.5, `contrast ${worst}`);
        await page.close();
      }
    });

    test("the samples scroll (prints the longest frame)", async (context) => {
      const { page, wrong } = await open(browser, url);
      if (!(await page.$(GRID))) return context.skip("no samples");
      await page.$eval(GRID, (grid) => grid.scrollIntoView());
      let frames = [];
      const busiest = await busiestTask(page, async () => { frames = await page.$eval(GRID, (grid) => new Promise((done) => {
        const times = [];
        let last = performance.now();
        const end = grid.scrollHeight - grid.clientHeight;
        const step = (now) => {
          times.push(now - last);
          last = now;
          // Small steps, then leaps: what a wheel does, and what dragging the bar does.
          grid.scrollTop += times.length < 120 ? 90 : end / 120;
          if (times.length < 240) requestAnimationFrame(step);
          else done(times.slice(2).sort((a, b) => b - a));
        };
        requestAnimationFrame(step);
      })); });
      console.log(`${name}: longest frame ${frames[0].toFixed(1)} ms (busiest task ${busiest.toFixed(1)} ms of processor), median ${frames[frames.length >> 1].toFixed(1)} ms, ${await countShown(page)} rows`);
      assert.ok(await page.$eval(GRID, (grid) => grid.querySelectorAll(".rows .row").length < 80), "rows are recycled");
      assert.deepEqual(wrong, []);
      await page.close();
    });

    test("prints: sections and rows, no navigation", async (context) => {
      const { page } = await open(browser, url);
      await page.emulateMediaType("print");
      await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
      assert.equal(await page.$eval(".bar", (bar) => getComputedStyle(bar).display), "none");
      if (!(await page.$(GRID))) return context.skip("no samples");
      const rows = await page.$$eval(".print-only tbody tr", (list) => list.filter((row) => row.getBoundingClientRect().height > 0).length);
      assert.equal(rows, Math.min(50, await countShown(page)));
      await page.close();
    });
  });
}

describe("what it came to", () => {
  test("a change has its arrow and its word, with its interval", async () => {
    const { page } = await open(browser, address);
    const cells = await page.$$eval("#outcome tbody tr:first-child > *", (list) => list.map((cell) => cell.innerText.replace(/[\s\u202f]+/g, " ").trim()));
    assert.deepEqual(cells, [
      "Attacks that succeed attacks.attack_success", "46.2 → 37.1 % 33.1 to 41.1 of 240", "▼ −9.1 points better −14.7 to −3.5", "46.2 → 41.8 % 35.8 to 47.8 of 240", "▼ −4.4 points unclear −12.8 to 4.0",
    ]);
    await page.close();
  });

  test("a column's head sorts by click and by keyboard, and says so", async () => {
    const { page } = await open(browser, address);
    const sort = () => page.$$eval("#outcome thead tr:last-child th", (heads) => heads.map((head) => head.getAttribute("aria-sort")));
    const firstLabel = () => text(page, "#outcome tbody .metric-label");
    await page.click("#outcome thead tr:last-child th:nth-child(3) button");
    assert.deepEqual(await sort(), ["none", "none", "descending", "none", "none"]);
    assert.equal(await firstLabel(), "Length of the attacks");
    await page.focus("#outcome thead tr:last-child th:first-child button");
    await page.keyboard.press("Enter");
    assert.deepEqual(await sort(), ["ascending", "none", "none", "none", "none"]);
    assert.equal(await firstLabel(), "Arithmetic");
    await page.keyboard.press("Space");
    assert.equal((await sort())[0], "descending");
    await page.close();
  });
});

describe("curves", () => {
  test("a crosshair moves by keyboard and its values are read out", async () => {
    const { page } = await open(browser, address);
    await page.keyboard.press("Tab");
    await page.$eval(".chart-svg", (chart) => chart.focus());
    await page.keyboard.press("Home");
    const said = (await text(page, ".panel .readout")).replace(/[\s\u202f]+/g, " ");
    assert.match(said, /^warm-up\s?full 46\.2 % 42\.7 to 49\.7/);
    assert.equal(await page.$eval(".crosshair", (crosshair) => crosshair.getAttribute("visibility")), "visible");
    await page.close();
  });

  test("are named where they end, and described in words", async () => {
    const { page } = await open(browser, address);
    assert.deepEqual(await page.$$eval(".chart-svg:first-of-type", ([chart]) => [...chart.querySelectorAll(".name")].map((name) => name.textContent).sort()), ["full", "no_diversity"]);
    assert.match(await page.$eval(".chart-svg", (chart) => chart.getAttribute("aria-label")), /^attacks that succeed, by after phase: full goes from 46\.2/);
    await page.close();
  });

  for (const width of [1280, 390]) {
    test(`of many ablations have a legend that is whole at ${width}`, async () => {
      const many = makeReport();
      const columns = ["full", "no_diversity", "no_meaning", "two_defenders", "frozen_evaluator", "binary_reward", "no_kl", "short"];
      const [panel] = many.panels;
      const curve = (name, index) => ({ name, points: panel.series[0].points.map(([place, value]) => [place, { ...value, value: value.value - index / 50 }]) });
      many.headline.columns = columns;
      many.headline.seeds = columns.map(() => 2);
      many.headline.rows = many.headline.rows.map((row) => ({ ...row, cells: columns.map((_, index) => row.cells[index % 2]) }));
      many.panels = [
        { ...panel, series: columns.map(curve) },
        { ...panel, title: "two of each", series: columns.flatMap((name, index) => [curve(`${name}: benchmark success`, index), curve(`${name}: over-refusal`, index + 9)]) },
      ];
      const { page, wrong } = await open(browser, written(`many-${width}.html`, { report: many, samples }), { width });
      assert.equal(await page.$$eval(".chart-svg .name", (names) => names.length), 0, "labels at the ends would not fit");
      assert.deepEqual(await page.$$eval(".readout-table tbody th", (names) => names.map((name) => name.textContent)), columns);
      const styles = await page.$$eval(".readout .swatch", (swatches) => swatches.map((swatch) => swatch.getAttribute("class")));
      assert.equal(styles.length, 24);
      assert.equal(new Set(styles.slice(0, 8)).size, 8, "each curve has a look of its own");
      const beyond = await page.$$eval(".panel *", (all) => all.filter((element) => element.getBoundingClientRect().right > element.closest(".panel").getBoundingClientRect().right + 1).length);
      assert.equal(beyond, 0, "nothing is cut off");
      assert.deepEqual(wrong, []);
      await page.close();
    });
  }

  test("can be those of one role", async () => {
    const { page } = await open(browser, address);
    await page.click(".segments [data-role=evaluator]");
    assert.deepEqual(await page.$$eval(".panel:not([hidden]) .panel-title", (titles) => titles.map((title) => title.textContent)), ["Accuracy on fresh pairs"]);
    await page.close();
  });
});

describe("samples", () => {
  test("search and filters show the rows that pass, and their address brings them back", async () => {
    const { page } = await open(browser, address);
    assert.equal(await countShown(page), ROWS);
    await filterBy(page, "verdict", "negative");
    assert.equal(await countShown(page), rowsWhere((row) => textOf(samples.verdict[row]) === "negative"));
    await filterBy(page, "category", "potions");
    await search(page, "GLOWVENOM");
    const expected = rowsWhere((row) => textOf(samples.verdict[row]) === "negative" && textOf(samples.category[row]) === "potions"
      && ["seed", "attack", "response"].some((column) => textOf(samples[column][row]).toLowerCase().includes("glowvenom")));
    assert.ok(expected > 0 && expected < ROWS);
    assert.equal(await countShown(page), expected);

    const { page: other } = await open(browser, page.url());
    assert.ok(Math.abs(await other.$eval("#samples", (section) => section.getBoundingClientRect().top) - 60) < 8, "the link leads to the samples");
    assert.equal(await countShown(other), expected);
    assert.equal(await other.$eval("input[type=search]", (input) => input.value), "GLOWVENOM");
    await other.click(".chips button:last-child");
    assert.equal(await countShown(other), ROWS);
    await page.close();
    await other.close();
  });

  test("a filter says how many rows each choice would show", async () => {
    const { page } = await open(browser, address);
    await filterBy(page, "verdict", "positive");
    const option = await page.$eval("select[data-facet=verdict]", (select) => [...select.options].find((option) => option.value === "=negative").text);
    assert.equal(option, `negative (${rowsWhere((row) => textOf(samples.verdict[row]) === "negative").toLocaleString("en")})`);
    await page.close();
  });

  test("open where rewards are, with all rows", async () => {
    // The evaluation before training has none.
    const later = { ...samples, reward: samples.reward.map((value, row) => (row < 100 ? null : value)) };
    const { page } = await open(browser, written("later.html", { report, samples: later }));
    const first = later.reward.findIndex((value) => value !== null);
    assert.equal(await countShown(page), samples.reward.length);
    assert.equal(await page.$eval(GRID, (grid) => Math.round(grid.scrollTop / 34)), first);
    await page.close();
  });

  test("are sorted by reward, and those without one come last both ways", async () => {
    const { page } = await open(browser, address);
    const rewards = samples.reward.filter((value) => value !== null);
    const shown = () => page.$$eval(".rows .row:not([hidden])", (rows) => rows.sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((row) => row.querySelector(".reward").textContent.replace("−", "-"))).then((list) => list[0]);
    const head = ".row.head .reward button";
    await page.click(head);
    assert.equal(Number(await shown()), Math.max(...rewards));
    await page.click(head);
    assert.equal(Number(await shown()), Math.min(...rewards));
    await page.$eval(GRID, (grid) => (grid.scrollTop = grid.scrollHeight));
    await page.waitForFunction(() => [...document.querySelectorAll(".rows .row:not([hidden]) .reward")].every((cell) => cell.textContent === ""));
    await page.close();
  });

  test("an attack opens with all that was answered, and leads to the checkpoint that wrote it and its lineage", async () => {
    const { page, wrong } = await open(browser, address);
    await filterBy(page, "phase", "red");
    await page.click(".rows .row:not([hidden])");
    await page.waitForSelector(".detail:not([hidden]) h3");
    const row = samples.scope.findIndex((scope) => /\/red\[/.test(textOf(scope)));
    const number = samples.attack_number[row];
    assert.equal(await text(page, ".detail h3"), `Attack ${number}`);
    const same = samples.attack_number.flatMap((other, at) => (other === number ? [at] : []));
    assert.deepEqual(await page.$$eval(".response-card > .text", (list) => list.map((said) => said.textContent)), same.map((at) => textOf(samples.response[at])));

    const said = await page.$$eval(".detail > .said h4", (titles) => titles.map((title) => title.textContent));
    assert.equal(said.includes("Earlier turns"), samples.conversation[row] >= 0);

    const checkpoint = textOf(samples.attacker_checkpoint[row]);
    await page.click(".detail .made-by a");
    await page.waitForSelector(".chain > li[aria-current]");
    assert.ok(decodeURIComponent(page.url()).endsWith(`#checkpoint=${checkpoint}`));
    const chain = await page.$$eval(".chain li > a", (links) => links.map((link) => link.textContent));
    assert.equal(chain[0], "warmup");
    assert.equal(chain.at(-1), checkpoint.slice(checkpoint.indexOf(":") + 1));
    const parents = new Map(report.checkpoints.map((one) => [one.node, one.parent?.slice(one.parent.indexOf(":") + 1)]));
    chain.slice(1).forEach((node, index) => assert.equal(parents.get(node), chain[index]));
    await page.goBack();
    await page.waitForFunction(() => location.hash.startsWith("#samples?"));
    assert.equal(await text(page, ".detail h3"), `Attack ${number}`);
    assert.deepEqual(wrong, []);
    await page.close();
  });

  test("hostile texts are text", async () => {
    const { page, wrong } = await open(browser, address);
    for (const hostile of [HOSTILE.script, HOSTILE.image, HOSTILE.close, HOSTILE.link, HOSTILE.override, HOSTILE.long, HOSTILE.emoji]) {
      const row = samples.attack.indexOf(samples.strings.indexOf(hostile));
      await page.evaluate((key) => (location.hash = `#samples?sample=${key}`), `${samples.attack_number[row]}.0`);
      await page.waitForFunction((wanted) => [...document.querySelectorAll(".detail .said .text")].some((said) => said.textContent === wanted), {}, hostile);
      assert.equal(await page.$eval(".detail .said:nth-of-type(2) .text", (said) => getComputedStyle(said).unicodeBidi), "isolate");
    }
    assert.equal(await page.evaluate(() => window.__pwned), undefined);
    assert.equal(await page.evaluate(() => document.querySelectorAll("img, iframe, script:not([nonce])").length), 0);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 1280);
    assert.deepEqual(wrong, []);
    await page.close();
  });

  test("a text of 120,000 letters without a space opens at once and is shown whole when asked for", async () => {
    const { page, wrong } = await open(browser, address);
    const row = samples.attack.indexOf(samples.strings.indexOf(HOSTILE.unbroken));
    await page.evaluate((key) => (location.hash = `#samples?sample=${key}`), `${samples.attack_number[row]}.0`);
    const said = ".detail .said:nth-of-type(2)";
    await page.waitForFunction((said) => document.querySelector(`${said} .text`)?.textContent.length === 20_000, {}, said);
    assert.equal(await text(page, `${said} button`), "Show all 120,000 letters");
    await page.click(`${said} button`);
    assert.equal(await text(page, `${said} .text`), HOSTILE.unbroken);
    assert.equal(await page.$(`${said} button`), null);
    // What lies between two places to break is short, so that laying it out takes no time to speak of.
    const longest = await page.$eval(`${said} .text`, (element) => Math.max(...[...element.childNodes].map((node) => node.textContent.length)));
    assert.equal(longest, 500);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 1280);
    assert.deepEqual(wrong, []);
    await page.close();
  });

  test("on a narrow screen the detail lies over the page, and Escape brings back the table", async () => {
    const { page } = await open(browser, address, { width: 390, height: 844 });
    await page.focus(GRID);
    await page.keyboard.press("Enter");
    assert.equal(await page.$eval("dialog", (dialog) => dialog.open), true);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
    await page.keyboard.press("Escape");
    assert.equal(await page.$eval("dialog", (dialog) => dialog.open), false);
    assert.ok(await focusedIn(page, GRID));
    await page.close();
  });

  test("a browser that cannot unpack them is told so", async () => {
    const page = await browser.newPage();
    await page.evaluateOnNewDocument(() => delete window.DecompressionStream);
    await page.goto(address);
    await page.waitForFunction(() => /could not be read: this browser cannot unpack them/.test(document.querySelector(".samples .note")?.textContent));
    await page.close();
  });
});

describe("by keyboard alone", () => {
  test("one gets from the top into a sample and out of it", async () => {
    const { page, wrong } = await open(browser, address);
    await page.keyboard.press("Tab");
    assert.ok(await focusedIn(page, ".skip"));
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement?.id === "main");
    const seen = new Set();
    for (let presses = 0; presses < 400 && !(await focusedIn(page, GRID)); presses += 1) {
      await page.keyboard.press("Tab");
      const [section, ring] = await page.evaluate(() => [document.activeElement?.closest("section[id]")?.id, getComputedStyle(document.activeElement).outlineStyle]);
      seen.add(section);
      assert.ok(ring !== "none" || (await focusedIn(page, ".stage, .loop, .chart-svg")), "what has the focus shows it");
    }
    for (const section of ["outcome", "cross-play", "curves", "evaluator", "coverage", "pipeline", "samples"]) assert.ok(seen.has(section), section);
    for (const key of ["ArrowDown", "ArrowDown", "ArrowUp", "Enter"]) await page.keyboard.press(key);
    assert.equal(await page.$eval(".row[aria-selected=true]", (row) => row.ariaRowIndex), "3");
    await page.keyboard.press("End");
    assert.equal(await page.$eval(".row.active", (row) => Number(row.ariaRowIndex)), ROWS + 1);
    assert.equal(await page.$eval(".row[aria-selected=true]", (row) => Number(row.ariaRowIndex)), ROWS + 1);
    await page.keyboard.press("Enter");
    assert.ok(await focusedIn(page, ".detail"));
    await page.keyboard.press("Escape");
    assert.ok(await focusedIn(page, GRID));
    assert.equal(await page.$(".detail:not([hidden])"), null);
    assert.deepEqual(wrong, []);
    await page.close();
  });
});

describe("the page", () => {
  test("keeps the reader's theme, and leaves out what is empty", async () => {
    const bare = { ...report, panels: [], matrices: [], checkpoints: [], graphs: [], redacted: true };
    const { page, wrong } = await open(browser, written("bare.html", { report: bare }));
    assert.deepEqual(await page.$$eval("main > section", (sections) => sections.map((section) => section.id)), ["outcome", "runs", "reproduce"]);
    assert.deepEqual(await page.$$eval(".bar-links a", (links) => links.map((link) => link.textContent)), ["Results", "Runs and machine", "Reproduce"]);
    assert.match(await text(page, ".page-head"), /Redacted/);
    await page.click(".theme");
    await page.reload();
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    await page.evaluate(() => localStorage.clear());
    assert.deepEqual(wrong, []);
    await page.close();
  });

  test("the first figure is who breaks whom, with the means of rows and columns", async () => {
    const { page, wrong } = await open(browser, address);
    assert.equal(await page.$eval("main figure", (figure) => figure.closest("section").id), "cross-play");
    const rows = await page.$$eval("#cross-play tbody tr", (list) => list.map((row) => [...row.children].map((cell) => cell.textContent)));
    assert.deepEqual(rows.map((row) => row.at(-1)), ["25.1", "51.6", "62.3", "46.3"]);
    assert.deepEqual(rows.at(-1), ["mean", "64.3", "51.7", "23.0", "46.3"]);
    const said = await page.$$eval("#cross-play td.mean", (cells) => cells.map((cell) => cell.title.replace("\u202f", " ")));
    assert.equal(said[1], "attacker after play[1], mean over all defenders: 51.6 % (47.6 to 55.6) of 720, 7 undetermined");
    assert.equal(said.at(-1), "mean of all: 46.3 % (42.3 to 50.3) of 2,160, 7 undetermined");
    assert.equal(await page.$("#evaluator td.mean"), null);
    assert.deepEqual(wrong, []);
    await page.close();
  });

  test("a matrix says of how many observations its cells are and what is undetermined", async () => {
    const counted = structuredClone(report);
    for (const matrix of counted.matrices) {
      matrix.counts = matrix.values.map((row, r) => row.map((_, c) => (r === 0 && c === 0 ? 57 : 60)));
      matrix.undetermined = matrix.values.map((row, r) => row.map((_, c) => (r === 0 && c === 0 ? 3 : 0)));
    }
    const { page, wrong } = await open(browser, written("counted.html", { report: counted, samples }));
    const below = await page.$$eval(".matrix-figure .readout", (lines) => lines.map((line) => line.textContent));
    assert.equal(below.length, counted.matrices.length);
    for (const line of below) assert.match(line, /Cells have 57 to 60 observations; 3 more observations undetermined and left out\./);
    assert.deepEqual(wrong, []);
    await page.close();
  });

  test("what is missing or no number is left out without complaint", async () => {
    const odd = structuredClone(report);
    const nothing = { value: null, low: null, high: null };
    odd.headline.rows[0].cells[0] = { first: nothing, last: nothing, change: nothing };
    for (const panel of odd.panels) panel.series.forEach((curve, index) => (index ? (curve.points = []) : (curve.points.at(-1)[1] = nothing)));
    for (const matrix of odd.matrices) matrix.values = matrix.values.map((row) => row.map(() => null));
    odd.checkpoints[3].parent = odd.checkpoints[3].id;
    odd.graphs[0].edges.push([6, 6], [13, 6], [20, 0]);
    const none = Object.fromEntries(Object.keys(samples).map((name) => [name, []]));
    const { page, wrong } = await open(browser, `${written("odd.html", { report: odd, samples: none })}#checkpoint=${odd.checkpoints[5].id}`);
    await page.waitForSelector(".chain > li");
    assert.match(await text(page, ".samples > .note"), /No samples/);
    assert.equal(await page.evaluate(() => /NaN|undefined|Infinity|null/.test(document.body.innerText)), false);
    assert.equal(await page.$$eval("svg *", (shapes) => shapes.filter((shape) => [...shape.attributes].some(({ name, value }) => name !== "aria-label" && /NaN|undefined|Infinity/.test(value))).length), 0);
    assert.deepEqual(wrong, []);
    await page.close();
  });

  test("a title with markup is a title", async () => {
    const { page, wrong } = await open(browser, written("title.html", { report: { ...report, title: HOSTILE.close, notices: [HOSTILE.image] } }));
    assert.equal(await text(page, "h1"), HOSTILE.close);
    assert.equal(await page.evaluate(() => window.__pwned), undefined);
    assert.deepEqual(wrong, []);
    await page.close();
  });
});

describe("a live page", () => {
  /** Answers like `triplay ui`, with versions that the test raises. */
  async function serve() {
    const state = { step: 0, samples: makeSamples(900), sampleVersion: 1, asked: 0 };
    const html = assemble({ live: true });
    const server = createServer((request, response) => {
      const url = new URL(request.url, "http://localhost");
      const answer = (version, data) => {
        if (url.searchParams.get("version") === String(version)) return response.writeHead(204).end();
        response.writeHead(200, { "content-type": "application/json", "x-version": String(version) }).end(JSON.stringify(data()));
      };
      if (url.pathname === "/TOKEN/") response.writeHead(200, { "content-type": "text/html" }).end(html);
      else if (url.pathname === "/TOKEN/api/report") answer(state.step, () => makeReport({ live: true, step: state.step }));
      else if (url.pathname === "/TOKEN/api/samples") {
        state.asked += 1;
        answer(state.sampleVersion, () => state.samples);
      } else response.writeHead(404).end();
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    const { port } = server.address();
    const stop = () => new Promise((done) => {
      server.close(done);
      server.closeAllConnections();
    });
    const again = () => new Promise((done) => server.listen(port, "127.0.0.1", done));
    return { state, url: `http://127.0.0.1:${port}/TOKEN/`, stop, again };
  }

  test("follows the run, keeps what the reader set, and says when nobody answers", async (context) => {
    const { state, url, stop, again } = await serve();
    context.after(stop);
    const { page, wrong } = await open(browser, url, { wait: false });
    await page.waitForSelector("#outcome tbody tr");
    assert.match(await text(page, ".log"), /play\[1\]\/red\[40\]/);
    await new Promise((done) => setTimeout(done, 1500));
    assert.equal(state.asked, 0, "samples are not asked for before somebody looks");

    await page.$eval("#samples", (section) => section.scrollIntoView());
    await page.waitForFunction(() => document.querySelector(".sample-count")?.textContent === "900 responses");
    const newest = (page) => page.$$eval(".rows .row:not([hidden])", (rows) => rows.find((row) => row.ariaRowIndex === "2")?.querySelector(".attack").textContent);
    assert.ok(state.samples.strings[state.samples.attack.at(-1)].startsWith((await newest(page)).slice(0, 20)), "the newest are first");

    await search(page, "glowvenom");
    const before = await countShown(page);
    await page.$eval(GRID, (grid) => (grid.scrollTop = 170));
    const inSight = () => page.$eval(GRID, (grid) => {
      const away = (row) => Math.abs(row.getBoundingClientRect().top - grid.getBoundingClientRect().top - 34);
      return [...grid.querySelectorAll(".rows .row:not([hidden])")].sort((a, b) => away(a) - away(b))[0].textContent;
    });
    const [seen, top] = [await inSight(), await page.evaluate(() => scrollY)];

    state.step = 7;
    state.samples = makeSamples(1500);
    state.sampleVersion = 2;
    await page.waitForFunction(() => /play\[1\]\/red\[47\]/.test(document.querySelector(".log")?.textContent));
    await page.waitForFunction((before) => Number(document.querySelector(".sample-count").textContent.split(" ")[0]) > before, {}, before);
    assert.equal(await text(page, "#outcome tbody strong"), "37.8");
    assert.equal(await page.$eval("input[type=search]", (input) => input.value), "glowvenom");
    assert.ok(await focusedIn(page, "input[type=search]"));
    assert.equal(await page.evaluate(() => scrollY), top);
    assert.equal(await inSight(), seen, "what the reader looks at stays in sight");

    await stop();
    await page.waitForSelector(".lost:not([hidden])");
    assert.match(await text(page, ".lost"), /Connection lost .* ago: triplay does not answer/);
    state.step = 9;
    await again();
    await page.waitForFunction(() => document.querySelector(".lost").hidden && /red\[49\]/.test(document.querySelector(".log").textContent));
    assert.deepEqual(wrong.filter((line) => !line.includes("ERR_CONNECTION") && !line.includes("ERR_EMPTY")), []);
    await page.close();
  });
});
