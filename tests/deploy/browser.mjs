// Drives the page in headless Chromium, for test_page.py: prints what it saw as JSON.
// node browser.mjs NODE_MODULES CHROMIUM URL [SCREENSHOT]
import { createRequire } from "node:module";

const [modules, chromium, url, screenshot] = process.argv.slice(2);
const { chromium: browserType } = createRequire(`${modules}/`)("playwright-core");
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await browserType.launch({
  executablePath: chromium,
  args: [...quiet, "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: 390, height: 844 } });
const seen = { problems: [] };
page.on("pageerror", (error) => seen.problems.push(error.message));
await page.goto(url);
await page.waitForFunction(() => !document.getElementById("go").disabled || document.getElementById("error").textContent);
seen.about = await page.textContent("#about");
seen.error = await page.textContent("#error");
const fields = await Promise.all(["class", "guidance", "prompt", "negative"].map(async (name) => [name, await page.isVisible("#" + name)]));
seen.fields = Object.fromEntries(fields);
if (!seen.error) {
  await page.fill("#count", "3");
  await page.fill("#steps", "4");
  await page.fill("#seed", "4294967303"); // more than 32 bits
  seen.classes = await page.$$eval("#class option", (all) => all.map((option) => option.textContent));
  seen.guidance = await page.textContent("#guidance-value");
  await page.selectOption("#class", { label: "dog" });
  await page.fill("#prompt", "A red circle, above!");
  await page.fill("#negative", "a blue square");
  await page.fill("#guidance", "4");
  await page.focus("#seed");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => / in [\d.]+ s$/.test(document.getElementById("status").textContent));
  seen.progress = await page.evaluate(() => document.getElementById("progress").value);
  seen.pixels = await page.$$eval("canvas", (all) =>
    all.map((c) => Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data)),
  );
  seen.overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  seen.values = await page.evaluate(async () => {
    const { Model } = await import("./diffusion.js");
    const model = await Model.load(new URL(".", location.href));
    const request = { label: 1, prompt: "A red circle, above!", negative: "a blue square", scale: 4 };
    return Array.from(await model.generate({ count: 3, steps: 4, seed: 4294967303, ...request }));
  });
  await page.fill("#steps", "1000");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("Step"));
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => document.getElementById("status").textContent === "Stopped");
  seen.stopped = true;
}
console.log(JSON.stringify(seen));
await browser.close();
