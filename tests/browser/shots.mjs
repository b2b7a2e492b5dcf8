// Takes pictures of the page to look at: `node shots.mjs FOLDER [REPORT.html]`.

import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { assemble, makeReport, makeSamples } from "./fixture.mjs";
import { launch, open } from "./browser.mjs";

const folder = resolve(process.argv[2] ?? "shots");
mkdirSync(folder, { recursive: true });
let file = process.argv[3] && resolve(process.argv[3]);
if (!file) {
  file = join(folder, "report.html");
  writeFileSync(file, assemble({ report: makeReport(), samples: makeSamples(50_000) }));
}
const browser = await launch();
for (const width of [1280, 390]) {
  for (const dark of [false, true]) {
    const name = `${width}-${dark ? "dark" : "light"}`;
    const { page, wrong } = await open(browser, pathToFileURL(file).href, { width, height: width === 390 ? 844 : 900, dark });
    await page.screenshot({ path: join(folder, `${name}-top.png`) });
    await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
    if (await page.$("#samples")) {
      await page.evaluate(() => document.getElementById("samples").scrollIntoView());
      await page.focus("[role=grid].grid");
      await page.keyboard.press("ArrowDown");
      await page.keyboard.press("Enter");
      await new Promise((done) => setTimeout(done, 300));
      await page.screenshot({ path: join(folder, `${name}-sample.png`) });
    }
    if (wrong.length) console.log(name, wrong);
    await page.close();
  }
}
const { page } = await open(browser, pathToFileURL(file).href);
await page.pdf({ path: join(folder, "print.pdf"), format: "A4" });
await browser.close();
console.log(folder);
