// Draws on the page in headless Chromium and prints, as JSON, how long each stroke took to become a picture.
// node app.mjs NODE_MODULES CHROMIUM URL THREADS EVALUATIONS STROKES
import { createRequire } from "node:module";

const [modules, chromium, url, threads, evaluations, strokes] = process.argv.slice(2);
const { chromium: browserType } = createRequire(`${modules}/`)("playwright-core");
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await browserType.launch({ executablePath: chromium, args: [...quiet, "--disable-component-update", "--disable-sync"] });
const page = await browser.newPage({ viewport: { width: 1000, height: 900 } });
page.setDefaultTimeout(300000);
const bytes = { page: 0, runtime: 0, model: 0 };
page.on("response", (response) => {
  const kind = /\/ort\//.test(response.url()) ? "runtime" : /\/model\//.test(response.url()) ? "model" : "page";
  bytes[kind] += Number(response.headers()["content-length"] ?? 0);
});
const result = "document.querySelector('#paint .result')";
const number = () => page.evaluate(`Number(${result}.dataset.number ?? 0)`);
await page.goto(`${url}?threads=${threads}`);
await page.waitForFunction(`Number(${result}.dataset.number) >= 1`);
const first = { ...bytes };
// a distilled model has its own numbers of steps, of which strength takes the last ones
const own = await page.$eval("#paint-steps", (field) => (field.tagName === "SELECT" ? Number(field.value) : null));
if (own === null) await page.fill("#paint-steps", evaluations);
else await page.fill("#paint-strength", String(Math.min(1, Math.ceil((20 * Number(evaluations)) / own) / 20)));
const box = await page.locator("#paint .sketch").boundingBox();
const delays = [];
for (let k = 0; k < Number(strokes) + 3; k++) {
  await page.waitForTimeout(200); // what is still computed ends
  await page.waitForFunction("!document.getElementById('paint').controller.follower.running");
  const before = await number();
  // one dot, so that there is one change to wait for at each of press and release
  await page.mouse.move(box.x + box.width * (0.2 + 0.6 * ((k * 0.37) % 1)), box.y + box.height * (0.2 + 0.6 * ((k * 0.61) % 1)));
  await page.mouse.down();
  await page.waitForFunction(`Number(${result}.dataset.number) > ${before}`);
  delays.push(Number(await page.evaluate(`${result}.dataset.delay`)));
  await page.mouse.up();
}
const facts = await page.textContent("#paint .facts");
const backend = await page.textContent("#backend");
console.log(JSON.stringify({ delays: delays.slice(3), bytes: first, facts, backend }));
await browser.close();
