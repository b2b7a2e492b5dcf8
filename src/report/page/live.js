// A live page: requests new data, and reports a lost connection.

const POLL_MS = 1000;

/**
 * @param {Object} page
 * @param {(report: Report) => void} page.report
 * @param {(samples: Samples) => void} page.samples
 * @param {() => boolean} page.wantsSamples samples are large: they are requested only when they are in sight
 * @param {(since: number | null) => void} page.lost since when there is no answer; null once there is one again
 */
function follow(page) {
  const versions = { report: "", samples: "" };
  /** @type {number | null} */
  let lostSince = null;

  /** @param {"report" | "samples"} name */
  async function ask(name) {
    const version = versions[name] ? `?version=${encodeURIComponent(versions[name])}` : "";
    const answer = await fetch(`api/${name}${version}`, { cache: "no-store" });
    if (answer.status === 204) return;
    if (!answer.ok) throw new Error(`api/${name} answered ${answer.status}`);
    const data = await answer.json();
    versions[name] = answer.headers.get("X-Version") ?? "";
    // An error while drawing is not a connection error.
    try {
      page[name](data);
    } catch (error) {
      console.error(error);
    }
  }

  async function round() {
    try {
      await ask("report");
      if (page.wantsSamples()) await ask("samples");
      if (lostSince !== null) page.lost((lostSince = null));
    } catch {
      lostSince ??= Date.now();
      page.lost(lostSince);
    }
    setTimeout(round, POLL_MS);
  }
  round();
}
