// Drives the page in headless Chromium, for test_page.py: prints what it saw as JSON. One browser for all checks.
// node browser.mjs NODE_MODULES CHROMIUM URL SERVER PHOTO [SCREENSHOTS]; SERVER is the address of `cunet app`, or ""
import { createRequire } from "node:module";

const [modules, chromium, url, server, photo, screenshots] = process.argv.slice(2);
const { chromium: browserType } = createRequire(`${modules}/`)("playwright-core");
const quiet = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const graphics = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]; // a graphics card in software
const browser = await browserType.launch({
  executablePath: chromium,
  args: [...quiet, ...graphics, "--disable-component-update", "--disable-sync"],
});
const seen = { problems: [], elsewhere: [] };

async function open(options, address = url) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(180000);
  page.on("pageerror", (error) => seen.problems.push(error.message));
  page.on("request", (request) => {
    const there = request.url();
    if (!there.startsWith(new URL(address).origin) && !/^(blob|data):/.test(there)) seen.elsewhere.push(there);
  });
  await page.goto(address);
  await page.waitForFunction(() => document.body.dataset.ready);
  return page;
}

let page = await open({ viewport: { width: 1000, height: 900 } });
const set = (id, value) => page.fill(`#${id}`, String(value));
const text = (selector) => page.textContent(selector);
const picture = async (name) => screenshots && page.screenshot({ path: `${screenshots}/${name}.png`, fullPage: true });

/** Waits until the picture of a panel is that of its present drawing and fields, and returns all of it. */
async function settled(panel) {
  const done = (panel) => {
    const { controller } = document.getElementById(panel);
    const result = document.querySelector(`#${panel} .result`);
    if (controller.error.textContent) throw new Error(controller.error.textContent);
    if (!result.input || controller.follower.running || controller.follower.dirty) return null;
    const { picture, hole, ...request } = result.request;
    const same = JSON.stringify(request) === JSON.stringify(controller.controls.request());
    if (!same || String(controller.sketch.picture().data) !== String(result.input.data)) return null;
    const { data } = result.getContext("2d").getImageData(0, 0, result.width, result.height);
    return { request, input: [...result.input.data], hole: hole ? [...hole] : null, pixels: [...data] };
  };
  const handle = await page.waitForFunction(done, panel);
  return handle.jsonValue();
}

async function stroke(panel, points) {
  const box = await page.locator(`#${panel} .sketch`).boundingBox();
  const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
  await page.mouse.move(...at(points[0]));
  await page.mouse.down();
  for (const point of points.slice(1)) await page.mouse.move(...at(point), { steps: 3 });
  await page.mouse.up();
}

seen.tabs = await page.$$eval("[role=tab]:not([hidden])", (all) => all.map((tab) => tab.textContent));
seen.error = await text("#error");
seen.threads = await page.evaluate(() => [self.crossOriginIsolated, document.getElementById("backend").textContent]);

// paint: one drawing, exactly
await set("paint-seed", 4294967303); // more than 32 bits
seen.classes = await page.$$eval("#paint-label option", (all) => all.map((option) => option.textContent));
await page.selectOption("#paint-label", { label: "dog" });
await set("paint-prompt", "A red circle, above!");
await set("paint-negative", "a blue square");
await set("paint-scale", 4);
await set("paint-steps", 2);
await set("paint-strength", 0.5);
await stroke("paint", [[0.2, 0.2], [0.8, 0.3], [0.4, 0.8]]);
seen.paint = await settled("paint");
seen.facts = await text("#paint .facts");
await picture("paint");

// further strokes while a slow picture is computed: it is dropped, and the last stroke wins
await set("paint-steps", 16);
await set("paint-strength", 0.05);
const before = await page.evaluate(() => Number(document.querySelector("#paint .result").dataset.number));
await stroke("paint", [[0.1, 0.9], [0.3, 0.9]]);
await stroke("paint", [[0.1, 0.1], [0.2, 0.5]]);
await page.focus("#paint .sketch");
await page.keyboard.press("ArrowRight");
await page.keyboard.press("Space");
seen.last = await settled("paint");
seen.number = (await page.evaluate(() => Number(document.querySelector("#paint .result").dataset.number))) - before;
seen.dropped = await page.evaluate(async () => {
  const { engine, model, controls, sketch } = document.getElementById("paint").controller;
  const ask = (steps) => engine.run("test", model, { ...controls.request(), picture: sketch.picture(), strength: 1, steps });
  const [first, second, third] = await Promise.all([ask(900), ask(800), ask(2)]);
  return [first === null, second === null, third.evaluations];
});
await page.click("#paint .undo");
seen.undone = (await settled("paint")).input;

// a distilled model has its own numbers of steps, of which strength takes the last ones
await page.selectOption("#paint-model", { label: "few" });
await set("paint-strength", 0.6);
seen.steps = await page.$$eval("#paint-steps option", (all) => all.map((option) => option.value));
seen.few = await settled("paint");
await page.selectOption("#paint-model", { label: "conditional" });

// generate: reached by the keyboard
await page.focus("#tab-paint");
await page.keyboard.press("ArrowRight");
await page.waitForFunction(() => document.querySelector("#generate ul.tiles").request);
await set("generate-tiles", 3);
await page.selectOption("#generate-label", { label: "any" });
await set("generate-steps", 4);
const tiles = async (model, steps, label) => {
  await page.waitForFunction(([model, steps, label]) => {
    const { request } = document.querySelector("#generate ul.tiles");
    const { name } = document.getElementById("generate").controller.controls.model;
    return request?.tiles === 3 && request.steps === steps && request.label === label && name === model;
  }, [model, steps, label]);
  return page.$$eval("#generate ul.tiles canvas", (all) => all.map((c) => [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]));
};
seen.generate = await tiles("conditional", 4);
await page.selectOption("#generate-model", { label: "latents" });
await set("generate-steps", 2);
seen.latents = await tiles("latents", 2);
seen.asked = await page.$$eval("#generate .controls label:not([hidden])", (all) => all.map((label) => label.firstChild.textContent.split(":")[0]));
await page.click("#generate .compare");
await page.waitForFunction(() => /%/.test(document.querySelector("#generate .compared").textContent));
seen.compared = await page.$$eval("#generate .compared li", (all) => all.map((item) => item.textContent));
await page.click("#generate .deeper");
await page.waitForFunction(() => /8 solver steps, /.test(document.querySelector("#generate .compared").textContent));
seen.deeper = await page.$$eval("#generate .compared li", (all) => all.map((item) => item.textContent));
seen.expected = await text("#generate-steps >> xpath=..");
await picture("generate");

// a file of a model that is broken, and another model after it
await page.selectOption("#generate-model", { label: "broken" });
await page.waitForFunction(() => document.querySelector("#generate .error").textContent);
seen.broken = await text("#generate .error");
await page.selectOption("#generate-model", { label: "latents" });
await page.waitForFunction(() => !document.querySelector("#generate .error").textContent);

// inpaint
await page.click("#tab-inpaint");
await page.waitForFunction(() => document.getElementById("inpaint").controller.sketch.base);
await set("inpaint-steps", 3);
await set("inpaint-repeats", 2);
await stroke("inpaint", [[0.3, 0.4], [0.7, 0.6]]);
seen.inpaint = await settled("inpaint");
await picture("inpaint");

// photographs
for (const tab of ["denoise", "upscale"]) {
  await page.click(`#tab-${tab}`);
  await page.setInputFiles(`#${tab} input[type=file]`, { name: "text.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  await page.waitForFunction((tab) => document.querySelector(`#${tab} .error`).textContent, tab);
  seen[`${tab} text`] = await text(`#${tab} .error`);
  await page.setInputFiles(`#${tab} input[type=file]`, photo);
  await page.waitForFunction((tab) => document.querySelector(`#${tab} .result`).dataset.number, tab);
  seen[tab] = await page.$eval(`#${tab} .result`, (c) => ({
    size: [c.height, c.width],
    pixels: [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data],
  }));
  await page.fill(`#${tab} .divider`, "20");
  const divided = () => page.$eval(`#${tab} .stack`, (stack) => stack.style.getPropertyValue("--at"));
  seen[`${tab} divided`] = [await divided()];
  const { width } = await page.locator(`#${tab} .stack`).boundingBox();
  await page.click(`#${tab} .stack`, { position: { x: 0.75 * width, y: 5 } }); // the picture itself can be dragged
  seen[`${tab} divided`].push(await divided());
  const [file] = await Promise.all([page.waitForEvent("download"), page.click(`#${tab} .download`)]);
  seen[`${tab} file`] = file.suggestedFilename();
  await picture(tab);
}
seen.unnamed = await page.$$eval("button, input, select", (all) =>
  all.filter((one) => !(one.textContent || one.getAttribute("aria-label") || one.labels?.[0]?.textContent)).map((one) => one.outerHTML),
);

// a phone in the dark: nothing sticks out, and a finger draws
const phone = await open({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, colorScheme: "dark" });
seen.dark = await phone.evaluate(() => getComputedStyle(document.body).backgroundColor);
seen.overflow = [];
for (const tab of ["paint", "generate", "inpaint", "denoise", "upscale"]) {
  await phone.click(`#tab-${tab}`);
  seen.overflow.push(await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth));
}
await phone.click("#tab-paint");
await phone.tap("#paint .sketch");
await phone.waitForFunction(() => document.querySelector("#paint .result").input?.data.some((value, i) => i % 4 < 3 && value > 9));
if (screenshots) await phone.screenshot({ path: `${screenshots}/phone.png`, fullPage: true });

// the graphics card, in software
const card = await page.$("#backend option[value=webgpu]");
if (card) {
  await page.click("#tab-generate");
  await page.selectOption("#backend", "webgpu");
  seen.graphics = await page.evaluate(async () => {
    const { engine, controls } = document.getElementById("generate").controller;
    const { picture } = await engine.run("test", controls.model, { steps: 1, seed: 5 });
    return [...picture.data];
  });
}

// embedded in another page: the address opens a tab, and several threads are allowed
const outer = await open({}, `${url}outer/`);
const inner = outer.frames()[1];
await inner.waitForFunction(() => document.body.dataset.ready);
seen.embedded = await inner.evaluate(() => [self.crossOriginIsolated, document.querySelector("[aria-selected=true]").textContent]);

// the same page, where a server computes
if (server) {
  page = await open({ viewport: { width: 1000, height: 900 } }, server);
  seen.server = { place: await text("#place"), compute: await page.isVisible("#compute"), address: page.url() };
  await set("paint-steps", 2);
  await set("paint-strength", 0.5);
  await set("paint-prompt", "a red circle");
  await stroke("paint", [[0.2, 0.2], [0.8, 0.3], [0.4, 0.8]]);
  seen.server.paint = await settled("paint");
  seen.server.facts = await text("#paint .facts");
  seen.server.dropped = await page.evaluate(async () => {
    const { engine, model, controls, sketch } = document.getElementById("paint").controller;
    const ask = (steps) => engine.run("test", model, { ...controls.request(), picture: sketch.picture(), strength: 1, steps });
    const [first, second, third] = await Promise.all([ask(200), ask(150), ask(2)]);
    return [first === null, second === null, third.evaluations];
  });
  await set("paint-strength", 0.05);
  await set("paint-steps", 16);
  await page.waitForFunction(() => document.querySelector("#paint .error").textContent);
  seen.server.refused = await text("#paint .error");
  await page.click("#tab-generate");
  await set("generate-tiles", 3);
  await set("generate-steps", 4);
  seen.server.generate = await tiles("conditional", 4, 0);
  await page.click("#tab-inpaint");
  await page.waitForFunction(() => document.getElementById("inpaint").controller.sketch.base);
  await set("inpaint-steps", 3);
  await set("inpaint-repeats", 2);
  await stroke("inpaint", [[0.3, 0.4], [0.7, 0.6]]);
  seen.server.inpaint = await settled("inpaint");
  for (const tab of ["denoise", "upscale"]) {
    await page.click(`#tab-${tab}`);
    await page.setInputFiles(`#${tab} input[type=file]`, photo);
    await page.waitForFunction((tab) => document.querySelector(`#${tab} .result`).dataset.number, tab);
    seen.server[tab] = await page.$eval(`#${tab} .result`, (c) => [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]);
  }
  await page.context().setOffline(true);
  await page.setInputFiles("#upscale input[type=file]", photo);
  await page.waitForFunction(() => document.querySelector("#upscale .error").textContent);
  seen.server.gone = await text("#upscale .error");
}

// a page without models
const empty = await open({}, `${url}empty/`);
seen.empty = await empty.textContent("#error");
console.log(JSON.stringify(seen));
await browser.close();
