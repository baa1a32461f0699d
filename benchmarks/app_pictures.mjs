// Uses the page in headless Chromium and takes pictures of it, for docs/app.md.
// node app_pictures.mjs NODE_MODULES CHROMIUM URL PHOTO FOLDER
import { createRequire } from "node:module";

const [modules, chromium, url, photo, folder] = process.argv.slice(2);
const { chromium: browserType } = createRequire(`${modules}/`)("playwright-core");
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await browserType.launch({ executablePath: chromium, args: [...quiet, "--disable-component-update", "--disable-sync"] });

async function open(tab, options) {
  const page = await (await browser.newContext(options)).newPage();
  page.setDefaultTimeout(300000);
  await page.goto(`${url}#${tab}`);
  await page.waitForFunction(() => document.body.dataset.ready);
  return page;
}

/** Draws lines through points of a canvas; later points may lie anywhere. */
async function stroke(page, tab, points) {
  const { x, y, width, height } = await page.locator(`#${tab} .sketch`).boundingBox();
  const at = ([right, down]) => [x + right * width, y + down * height];
  await page.mouse.move(...at(points[0]));
  await page.mouse.down();
  for (const point of points.slice(1)) await page.mouse.move(...at(point), { steps: 8 });
  await page.mouse.up();
}

async function shot(page, name, clip = {}) {
  await page.evaluate(() => scrollTo(0, 0));
  const { width, height } = { ...page.viewportSize(), ...clip };
  await page.screenshot({ path: `${folder}/app-${name}.png`, fullPage: true, clip: { x: 0, y: 0, width, height } });
}

const still = (page, tab) =>
  page.waitForFunction((tab) => {
    const { follower, facts } = document.getElementById(tab).controller;
    return !follower.running && !follower.dirty && facts.textContent.includes("ms per picture");
  }, tab);

const desk = await open("paint", { viewport: { width: 1000, height: 860 } });
await still(desk, "paint");
await desk.fill("#paint-seed", "1");
const three = Array.from({ length: 13 }, (_, k) => [0.42 + 0.17 * Math.sin(0.1 + 0.24 * k), 0.33 - 0.16 * Math.cos(0.1 + 0.24 * k)]);
const below = Array.from({ length: 15 }, (_, k) => [0.42 + 0.2 * Math.sin(0.1 + 0.25 * k), 0.65 - 0.17 * Math.cos(0.1 + 0.25 * k)]);
await stroke(desk, "paint", [[0.28, 0.22], ...three, ...below]);
await desk.waitForTimeout(500);
await still(desk, "paint");
await shot(desk, "paint", { height: 890 });

const phone = await open("generate", { viewport: { width: 390, height: 760 }, isMobile: true, hasTouch: true, colorScheme: "dark" });
await phone.fill("#generate-tiles", "9");
await phone.fill("#generate-seed", "1");
if (await phone.$("#generate-scale")) await phone.fill("#generate-scale", "2");
if (await phone.$("#generate-label")) await phone.selectOption("#generate-label", { index: 5 });
await phone.waitForFunction(() => document.querySelector("#generate ul.tiles").request?.tiles === 9);
await shot(phone, "phone");

const photos = await open("denoise", { viewport: { width: 760, height: 700 } });
await photos.setInputFiles("#denoise input[type=file]", photo);
await photos.waitForFunction(() => document.querySelector("#denoise .result").dataset.number);
await photos.fill("#denoise .divider", "45");
await shot(photos, "denoise", { height: 765 });

await desk.click("#tab-generate");
await desk.fill("#generate-tiles", "8");
await desk.fill("#generate-seed", "7");
if (await desk.$("#generate-scale")) await desk.fill("#generate-scale", "2");
if (await desk.$("#generate-label")) await desk.selectOption("#generate-label", { index: 8 });
await desk.waitForFunction(() => document.querySelector("#generate ul.tiles").request?.tiles === 8);
await desk.click("#generate .compare");
await desk.waitForFunction(() => /%/.test(document.querySelector("#generate .compared").textContent));
await shot(desk, "compare", { height: 730 });
await browser.close();
