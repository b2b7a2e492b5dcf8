// Opens pages in Chromium and keeps what went wrong in them.

import puppeteer from "puppeteer-core";

export const launch = () => puppeteer.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--force-color-profile=srgb"] });

/**
 * The longest time that one task of the page's thread needed of a processor, in milliseconds: unlike the time between
 * frames it does not count what else the machine was busy with.
 * @param {import("puppeteer-core").Page} page
 * @param {() => Promise<any>} action
 */
export async function busiestTask(page, action) {
  await page.tracing.start({ categories: ["devtools.timeline", "toplevel", "disabled-by-default-devtools.timeline"] });
  await action();
  const events = JSON.parse(Buffer.from(await page.tracing.stop()).toString()).traceEvents;
  const thread = events.find((event) => event.name === "FireAnimationFrame");
  return Math.max(...events.filter((event) => event.name === "RunTask" && event.pid === thread?.pid && event.tid === thread?.tid).map((event) => (event.tdur ?? 0) / 1000));
}

/**
 * @param {import("puppeteer-core").Browser} browser
 * @param {string} address
 * @param {{width?: number, height?: number, dark?: boolean, wait?: boolean}} [options]
 * @returns {Promise<{page: import("puppeteer-core").Page, wrong: string[]}>} `wrong` are errors and violations so far
 */
export async function open(browser, address, { width = 1280, height = 900, dark = false, wait = true } = {}) {
  const page = await browser.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && wrong.push(`${message.type()}: ${message.text()}`));
  await page.evaluateOnNewDocument(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`violation of ${event.violatedDirective} by ${event.blockedURI}`));
  });
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  await page.goto(address);
  if (wait) await page.waitForSelector("main > section");
  if (wait && (await page.$("#samples"))) await page.waitForFunction(() => /\d/.test(document.querySelector(".sample-count")?.textContent ?? "") || document.querySelector(".samples > .note:not([hidden])")?.textContent?.startsWith("No samples"), { timeout: 60_000 });
  return { page, wrong };
}
