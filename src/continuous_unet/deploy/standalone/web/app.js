// Starts the page: reads which models there are, and opens the panels that they have work for.

import { Engine } from "./engine.js";
import { Generate, Inpaint, Paint } from "./making.js";
import { readInfo } from "./model.js";
import { Restore } from "./photographs.js";

const at = (id) => document.getElementById(id);
const here = new URL(".", location.href);
const asked = new URLSearchParams(location.search);
// several threads need the headers of a cross-origin isolated page
const threads = self.crossOriginIsolated ? Number(asked.get("threads")) || Math.min(4, navigator.hardwareConcurrency || 1) : 1;

/** Returns the models that can be used; what is wrong with others is shown. */
async function readModels() {
  const answer = await fetch(new URL("models.json", here));
  if (!answer.ok) throw new Error(`models.json is missing (${answer.status}): this page must lie in an export`);
  const { models } = await answer.json();
  const problems = [];
  const read = async ({ name, folder, where = "browser" }) => {
    try {
      const place = new URL(folder, here);
      return { name, where, folder: place.href, info: await readInfo(place) };
    } catch (error) {
      problems.push(`${name}: ${error.message}`);
      return null;
    }
  };
  const found = (await Promise.all(models.map(read))).filter(Boolean);
  at("error").textContent = problems.join(". ");
  return found;
}

function choose(tabs, panels, id) {
  for (const tab of tabs) {
    const chosen = tab.getAttribute("aria-controls") === id;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    at(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  panels[id].opened();
}

async function offerBackends(engine, models, panels) {
  const select = at("backend");
  const inBrowser = models.some(({ where }) => where === "browser");
  at("compute").hidden = !inBrowser;
  if (models.some(({ where }) => where === "server")) {
    at("place").textContent = inBrowser ? "Some models run on the server that this page came from." : "The server that this page came from computes the pictures.";
  }
  if (!inBrowser) return;
  select.append(new Option(threads === 1 ? "the processor, one thread" : `the processor, ${threads} threads`, "wasm"));
  if (navigator.gpu && (await navigator.gpu.requestAdapter().catch(() => null))) select.append(new Option("the graphics card", "webgpu"));
  select.addEventListener("change", () => {
    engine.backend = select.value;
    Object.entries(panels).find(([id]) => !at(id).hidden)?.[1].again(); // which shows the difference
  });
}

async function start() {
  const models = await readModels();
  const engine = new Engine("ort/", threads);
  const of = (task) => models.filter(({ info }) => info.task === task);
  const makers = of("generation");
  const panels = {};
  if (makers.length) {
    const paintOn = (picture, seed) => {
      if (!picture) return;
      panels.paint.controls.fields.seed.value = seed;
      choose(tabs, panels, "paint");
      panels.paint.sketch.load(picture);
    };
    panels.paint = new Paint(at("paint"), engine, makers);
    panels.generate = new Generate(at("generate"), engine, makers, paintOn);
    panels.inpaint = new Inpaint(at("inpaint"), engine, makers);
  }
  for (const task of ["denoise", "upscale"]) {
    if (of(task).length) panels[task] = new Restore(at(task), engine, of(task));
  }
  const tabs = Object.keys(panels).map((id) => at(`tab-${id}`));
  if (!tabs.length) throw new Error(at("error").textContent || "there is no model that this page can use");
  const follow = (tab) => {
    choose(tabs, panels, tab.getAttribute("aria-controls"));
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`); // so that a copied address opens this tab
  };
  tabs.forEach((tab, k) => {
    tab.hidden = false;
    tab.addEventListener("click", () => follow(tab));
    tab.addEventListener("keydown", ({ key }) => {
      const next = { ArrowRight: k + 1, ArrowLeft: k - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[key];
      if (next === undefined) return;
      const one = tabs[next % tabs.length];
      one.focus();
      follow(one);
    });
  });
  await offerBackends(engine, models, panels);
  const first = location.hash.slice(1);
  choose(tabs, panels, panels[first] ? first : Object.keys(panels)[0]);
  addEventListener("hashchange", () => panels[location.hash.slice(1)] && choose(tabs, panels, location.hash.slice(1)));
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  at("error").textContent = error.message || String(error);
  document.body.dataset.ready = "failed";
});
