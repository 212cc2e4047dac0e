// A run's report in a real browser; scripts/browser-check names the reports and the browser.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

const { REPORTS, CHROMIUM, MODULES, FORMAT, SCREENSHOTS } = process.env;
const { chromium } = createRequire(`${MODULES}/`)("playwright-core");
const WIDTHS = [390, 768, 1600];
let browser;

before(async () => {
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
});
after(() => browser.close());

// Open a report; whatever the console says or the page asks for is a failure.
async function opened(t, name, { hash = "", ...options } = {}) {
  const page = await browser.newPage({ viewport: { width: 1600, height: 1000 }, ...options });
  page.setDefaultTimeout(120_000); // milliseconds; the machine may be busy
  const said = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  page.on("dialog", (dialog) => said.push(dialog.message()));
  page.on("request", (request) => /^(file|blob|data):/.test(request.url()) || said.push(request.url()));
  t.after(async () => {
    await page.close();
    assert.deepEqual(said, []);
  });
  await page.goto(`file://${REPORTS}/${name}.html${hash}`);
  await page.waitForSelector("html[data-ready]");
  return page;
}

// What the browser calls layout shift, added up.
function movement() {
  return new Promise((told) => {
    const sum = (list) => told(list.getEntries().reduce((all, each) => all + each.value, 0));
    new PerformanceObserver(sum).observe({ type: "layout-shift", buffered: true });
    setTimeout(told, 300, 0);
  });
}

const rowsOf = (page) => page.locator("#table tbody tr");
const found = (page, told) => page.locator("#found", { hasText: told }).waitFor();

for (const name of ["many", "evil", "empty"]) {
  for (const width of WIDTHS) {
    for (const colorScheme of ["light", "dark"]) {
      test(`${name} fits ${width} px, ${colorScheme}, and nothing moves`, async (t) => {
        // So tall that all of it is in sight: what is not does not count as moved.
        const page = await opened(t, name, { viewport: { width, height: 6000 }, colorScheme });
        if (name !== "empty") await page.waitForFunction(() => [...document.querySelectorAll(".plot")].every((each) => each.querySelector("svg")));
        assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width);
        assert.ok((await page.evaluate(movement)) < 0.001);
        if (SCREENSHOTS && name === "many") {
          const path = `${SCREENSHOTS}/report-${width}-${colorScheme}.png`;
          await page.screenshot({ path, clip: { x: 0, y: 0, width, height: 2000 } });
        }
      });
    }
  }
}

test("what was written by models and users is only text", async (t) => {
  const page = await opened(t, "evil");
  await rowsOf(page).first().locator("a").click();
  await page.locator("#pane .said").first().waitFor();
  await page.locator("#pane").filter({ hasText: /<\/script><img src=x/ }).waitFor();
  assert.equal(await page.locator("img").count(), 0);
  assert.match(await page.title(), /^Batch report/);
});

test("a search finds ids, texts and errors", async (t) => {
  const page = await opened(t, "many");
  for (const [query, told] of [
    ["ITEM-007", "1 of 120 items"],
    ["pineapple17?", "1 of 120 items"],
    ['"question 5, pine"', "1 of 120 items"],
    ["RateLimitError", "15 of 120 items"],
    ["try again wait", "30 of 120 items"],
    ["nowhere to be found", "0 of 120 items"],
    ["", "120 items"],
  ]) {
    await page.fill("#search", query);
    await found(page, told);
  }
});

test("items are filtered, sorted and paged", async (t) => {
  const page = await opened(t, "many");
  await found(page, "120 items");
  assert.equal(await rowsOf(page).count(), 25);
  await page.click("#forth");
  await rowsOf(page).first().filter({ hasText: /item-025/ }).waitFor();
  await page.selectOption("#status", "failed");
  await found(page, "30 of 120 items");
  await page.getByRole("button", { name: "Item" }).click();
  await rowsOf(page).first().filter({ hasText: /item-00\d/ }).waitFor();
  assert.equal(await page.locator("th[data-key=id]").getAttribute("aria-sort"), "ascending");
  await page.getByRole("button", { name: "Item" }).click();
  await rowsOf(page).first().filter({ hasText: /item-116/ }).waitFor();
  assert.equal(await page.locator("th[data-key=id]").getAttribute("aria-sort"), "descending");
});

test("a class of failures leads to its items", async (t) => {
  const page = await opened(t, "many");
  await page.getByRole("link", { name: "RateLimitError" }).click();
  await found(page, "15 of 120 items");
});

test("an item has an address, and the keyboard is enough", async (t) => {
  const page = await opened(t, "many", { hash: "#item/item-003" });
  const pane = page.locator("#pane[open]");
  await pane.getByRole("heading", { name: "item-003" }).waitFor();
  await pane.getByText(/Question 3, pineapple3\?/).first().waitFor(); // it is unpacked first
  await pane.getByText(/no such file/).first().waitFor();
  await pane.getByRole("button", { name: "Next" }).press("Enter");
  await pane.getByRole("heading", { name: "item-004" }).waitFor();
  await page.waitForURL(/#item\/4\/item-004$/);
  await page.keyboard.press("Escape");
  await pane.waitFor({ state: "detached" });
  await page.waitForURL(/^[^#]*$/);
});

test("another model than the asked one is named", async (t) => {
  const page = await opened(t, "many", { hash: "#item/item-002" });
  const pane = page.locator("#pane[open]");
  await pane.getByText("big/model (answered by other/model)").waitFor();
  await pane.getByRole("button", { name: "Previous" }).click();
  await pane.getByRole("heading", { name: "item-001" }).waitFor();
  assert.doesNotMatch(await pane.innerText(), /answered by/);
});

test("colours are chosen, plots and all", async (t) => {
  const page = await opened(t, "many", { colorScheme: "light" });
  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const bar = () => page.locator(".plot .point path").first().evaluate((each) => getComputedStyle(each).fill);
  const light = [await back(), await bar()];
  await page.getByText("Dark", { exact: true }).click();
  await page.waitForFunction((before) => getComputedStyle(document.querySelector(".plot .point path")).fill !== before, light[1]);
  assert.notEqual(await back(), light[0]);
});

// WCAG: text against what it stands on.
test("text has contrast, light and dark", async (t) => {
  for (const colorScheme of ["light", "dark"]) {
    const page = await opened(t, "many", { colorScheme });
    const weak = await page.evaluate(() => {
      const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const light = (colour) => {
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const linear = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
      };
      const behind = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" && element.parentElement ? behind(element.parentElement) : colour;
      };
      const texts = [...document.querySelectorAll("body *")].filter((each) => each.checkVisibility() && !each.closest("svg, script, button:disabled, .skip") && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
      return texts.flatMap((each) => {
        const [one, other] = [light(getComputedStyle(each).color), light(behind(each))].sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        return contrast < 4.5 ? [`${each.tagName} ${each.className} ${each.textContent.slice(0, 20)} ${contrast.toFixed(2)}`] : [];
      });
    });
    assert.deepEqual([...new Set(weak)], []);
  }
});

test("numbers are written as in the page's fixed parts", async () => {
  const format = await import(`data:text/javascript,${encodeURIComponent(readFileSync(FORMAT, "utf8"))}`);
  const table = JSON.parse(readFileSync(new URL("numbers.json", import.meta.url), "utf8"));
  for (const [name, rows] of Object.entries(table)) {
    for (const [value, shown] of rows) assert.equal(format[name](value), shown, `${name}(${value})`);
  }
});
