// The page of a running ringecho server, used as a person uses it, in a real browser.
//
//   RINGECHO_URL  the page (http://127.0.0.1:9001/), perhaps below a prefix of a proxy; the echo is at /ws beside it
//   CHROMIUM      the browser (/usr/bin/chromium)
//   COMPRESSION   what the server does about it: off or pass-through (off)
//   SCREENSHOT    where to save a picture of the page, if anywhere
//   NET_LOG       where Chromium logs what it does on the network, if anywhere
//
// What an echo server never does (a wrong echo, a close of its own) is played by a scripted peer on a page of its own.

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const PAGE_URL = process.env.RINGECHO_URL ?? 'http://127.0.0.1:9001/';
const COMPRESSION = process.env.COMPRESSION ?? 'off';
const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';
const ECHO_URL = `${PAGE_URL.replace(/^http/, 'ws').replace(/\/$/, '')}/ws`;
const ARGUMENTS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--ignore-certificate-errors',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
if (process.env.NET_LOG) ARGUMENTS.push(`--log-net-log=${process.env.NET_LOG}`);
const DESKTOP = { width: 1280, height: 900 };
const WAIT_MS = 20_000;

const scratch = await mkdtemp(join(tmpdir(), 'ringecho-page-'));
let browser;
let page;
try {
  browser = await chromium.launchPersistentContext(join(scratch, 'profile'), {
    executablePath: EXECUTABLE, args: ARGUMENTS, viewport: DESKTOP, colorScheme: 'light',
  });
  browser.setDefaultTimeout(WAIT_MS);
  await run();
} finally {
  await browser?.close();
  await rm(scratch, { recursive: true, force: true });
}

async function run() {
  const faults = [];
  page = await browser.newPage();
  page.on('pageerror', (error) => faults.push(error.message));
  const requests = [];
  page.on('request', (request) => requests.push(request.url()));
  await page.goto(PAGE_URL);

  await check('the page is one response and loads nothing else', () => {
    assert.deepEqual(requests.filter((url) => !url.startsWith('data:')), [new URL(PAGE_URL).href]);
  });

  await check('it starts disconnected, with the URL of its own server', async () => {
    assert.equal(await page.title(), 'ringecho');
    await stateIs('Disconnected');
    assert.equal(await page.inputValue('#url'), ECHO_URL);
    await buttonsAre({ Connect: true, 'Close Socket': false, Send: false });
  });

  await check('Enter in the URL field connects', async () => {
    await page.press('#url', 'Enter');
    await stateIs('Open');
    await lastRowSays(/Opened wss?:/);
    await buttonsAre({ Connect: false, 'Close Socket': true, Send: true });
  });

  await check('compression is agreed on if the server passes it through', async () => {
    const agreed = await page.evaluate(async (url) => {
      const socket = new WebSocket(url);
      await new Promise((resolve) => socket.addEventListener('open', resolve));
      socket.close();
      return socket.extensions;
    }, await page.inputValue('#url'));
    assert.equal(agreed, COMPRESSION === 'off' ? '' : 'permessage-deflate');
  });

  await check('a text message comes back, with its round trip', async () => {
    await page.fill('#message', 'Grüße, 日本 😀');
    await page.press('#message', 'Enter');
    await echoIs('Grüße, 日本 😀');
    const rows = page.locator('#log tr');
    assert.deepEqual(await rows.nth(-2).locator('.from, .to').allTextContents(), ['Client', 'Server']);
    assert.deepEqual(await rows.last().locator('.from, .to').allTextContents(), ['Server', 'Client']);
    assert.match(await rows.last().locator('.round-trip').textContent(), /^(< )?[\d.,]+ ms$/);
  });

  await check('HTML in a message is shown as text', async () => {
    const html = '<img src=x onerror="document.title=1"><b>bold</b>';
    await page.fill('#message', html);
    await page.click('#send');
    await echoIs(html);
    assert.equal(await page.locator('#log :is(img, b)').count(), 0);
    assert.equal(await page.title(), 'ringecho');
  });

  await check('a binary message is written as hex, and a wrong digit is named', async () => {
    await page.locator('label', { has: page.locator('#mode-hex') }).click();
    await page.fill('#message-hex', '00 ff g1');
    assert.match(await page.textContent('#message-error'), /“g” at position 7/);
    await page.fill('#message-hex', '00 f');
    assert.match(await page.textContent('#message-error'), /odd number of hex digits \(3\)/);
    await page.fill('#message-hex', '00 FF 7f');
    await page.click('#send');
    await echoIs('00 ff 7f', /binary, 3 bytes/);
  });

  await check('a file is sent as one binary message', async () => {
    const path = join(scratch, 'message.bin');
    await writeFile(path, Uint8Array.from({ length: 70_000 }, (_, i) => i % 251));
    await page.locator('label', { has: page.locator('#mode-file') }).click();
    await page.setInputFiles('#file', path);
    await page.click('#send');
    await lastRowSays(/Server.*00 01 02 03.*…binary, 70,000 bytes/);
  });

  await check('a long message is cut in the log and can be shown whole', async () => {
    const long = `${'x'.repeat(99_999)}!`;
    await page.locator('label', { has: page.locator('#mode-text') }).click();
    await page.fill('#message', long);
    await page.click('#send');
    await lastRowSays(/^[\d:.]+Server.*x…text, 100,000 bytes/);
    await page.locator('#log tr').last().getByRole('button', { name: 'Show all' }).click();
    assert.equal(await page.locator('#log .payload').last().textContent(), long);
  });

  await check('Send N times adds one row with its figures', async () => {
    const rowsBefore = await page.locator('#log tr').count();
    await page.fill('#message', 'again');
    await page.fill('#repeat-count', '500');
    await page.fill('#repeat-depth', '8');
    await page.click('#repeat');
    await lastRowSays(/500 echoes of 500, 5 bytes each, 8 in flight.*all equal.*p50 .* ms, p99 .* ms, min .*, max /);
    assert.equal(await page.locator('#log tr').count(), rowsBefore + 1);
    assert.deepEqual(await page.locator('#repeat-result dt').allTextContents(), ['p50', 'p99', 'min', 'max']);
    assert.match(await page.textContent('#repeat-result'), /messages\/s/);
  });

  await check('Send N times can be stopped, and the next echo still matches its message', async () => {
    await page.fill('#repeat-count', '1000000');
    await page.click('#repeat');
    await page.click('#repeat-stop');
    await lastRowSays(/of 1,000,000.*stopped: by hand/);
    await page.fill('#message', 'after the run');
    await page.click('#send');
    await echoIs('after the run');
    assert.equal(await page.locator('#log .difference').count(), 0);
  });

  await check('Close Socket closes with 1000 and its reason, which the server gives back', async () => {
    await page.click('#close');
    await stateIs('Closed');
    await lastRowSays(/Closed with code 1000 \(Normal Closure\), reason “Closing from client”$/);
    await buttonsAre({ Connect: true, 'Close Socket': false, Send: false });
  });

  await check('a refused connection is an error in the log', async () => {
    const url = await page.inputValue('#url');
    await page.fill('#url', 'ws://127.0.0.1:1/');
    await page.click('#connect');
    await lastRowSays(/Closed with code 1006/);
    assert.match(await page.locator('#log tr').nth(-2).textContent(), /Error: could not connect to ws:\/\/127\.0\.0\.1:1\//);
    await page.fill('#url', url);
  });

  await check('at 360 pixels nothing is wider than the screen, in light and in dark', async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    const grounds = new Set();
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      const widths = await page.evaluate(() => ['html', '#log-scroll'].map((name) => {
        const { scrollWidth, clientWidth } = document.querySelector(name);
        return scrollWidth - clientWidth;
      }));
      assert.deepEqual(widths, [0, 0]);
      grounds.add(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
    }
    assert.equal(grounds.size, 2);
    await page.setViewportSize(DESKTOP);
    await page.emulateMedia({ colorScheme: 'light' });
  });

  await check('Clear empties the log', async () => {
    await page.click('#clear');
    assert.equal(await page.locator('#log tr').count(), 0);
  });

  if (process.env.SCREENSHOT) await takePicture(process.env.SCREENSHOT);

  const echoPage = page;
  page = await browser.newPage();
  page.on('pageerror', (error) => faults.push(error.message));
  await page.routeWebSocket(/.*/, (connection) => connection.onMessage((message) => {
    if (message === 'close') connection.close({ code: 4001, reason: 'from the server' });
    else if (message === 'flood') for (let i = 0; i < 1_500; i++) connection.send(`unasked ${i}`);
    else connection.send(message.replace('l', 'L'));
  }));
  await page.goto(PAGE_URL);
  await page.click('#connect');
  await stateIs('Open');

  await check('an echo that differs is marked', async () => {
    await page.fill('#message', 'hello');
    await page.click('#send');
    await lastRowSays(/heLlo.*Differs from the message sent: first at character 3/);
  });

  await check('the log keeps its last 1,000 rows', async () => {
    await page.fill('#message', 'flood');
    await page.click('#send');
    await lastRowSays(/unasked 1499/);
    assert.equal(await page.locator('#log tr').count(), 1_000);
  });

  await check('a close by the server shows its code and reason', async () => {
    await page.fill('#message', 'close');
    await page.click('#send');
    await stateIs('Closed');
    await lastRowSays(/Closed with code 4001, reason “from the server”/);
  });

  await page.close();
  page = echoPage;
  await check('the script ran without an error', () => assert.deepEqual(faults, []));
}

async function check(name, body) {
  try {
    await body();
  } catch (error) {
    console.log(`FAILED  ${name}`);
    throw error;
  }
  console.log(`ok  ${name}`);
}

async function stateIs(state) {
  await page.locator('#state', { hasText: new RegExp(`^${state}$`) }).waitFor();
}

async function lastRowSays(pattern) {
  await page.locator('#log tr:last-child', { hasText: pattern }).waitFor();
}

// The last row is an echo of exactly this text, equal to what was sent.
async function echoIs(text, size = /text, /) {
  const row = page.locator('#log tr.received:not(.warning):last-child', { has: page.getByText(text, { exact: true }) });
  await row.filter({ hasText: size }).waitFor();
}

async function buttonsAre(expected) {
  for (const [name, enabled] of Object.entries(expected)) {
    assert.equal(await page.getByRole('button', { name, exact: true }).isEnabled(), enabled, name);
  }
}

async function takePicture(path) {
  await page.click('#connect');
  await stateIs('Open');
  for (const message of ['Hello, ringecho!', 'Grüße und 😀', '{"id": 7, "tags": ["<b>", "&amp;"]}']) {
    await page.fill('#message', message);
    await page.click('#send');
    await echoIs(message);
  }
  await page.locator('label', { has: page.locator('#mode-hex') }).click();
  await page.fill('#message-hex', '00 01 02 03 fc fd fe ff');
  await page.click('#send');
  await echoIs('00 01 02 03 fc fd fe ff', /binary/);
  await page.locator('label', { has: page.locator('#mode-text') }).click();
  await page.fill('#message', 'Hello, ringecho!');
  await page.fill('#repeat-count', '1000');
  await page.fill('#repeat-depth', '1');
  await page.click('#repeat');
  await lastRowSays(/1,000 echoes of 1,000/);
  await page.screenshot({ path });
  await page.click('#close');
  await stateIs('Closed');
}
