// WebSockets over HTTP/2 in a real browser, shown by its own log of the network.
//
//   RINGECHO_URL  the page of a server that speaks TLS and HTTP/2 (https://127.0.0.1:9443/)
//   CHROMIUM      the browser (/usr/bin/chromium)
//
// The browser opens a WebSocket over HTTP/2 only where it already has a connection whose server has said
// SETTINGS_ENABLE_CONNECT_PROTOCOL: the one that the page came by.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const PAGE_URL = process.env.RINGECHO_URL ?? 'https://127.0.0.1:9443/';
const ECHO_URL = `${PAGE_URL.replace(/^https/, 'wss').replace(/\/$/, '')}/ws`;
const SOCKETS = 10;

const scratch = await mkdtemp(join(tmpdir(), 'ringecho-http2-'));
const log = join(scratch, 'net.json');
try {
  const browser = await chromium.launchPersistentContext(join(scratch, 'profile'), {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--ignore-certificate-errors',
      '--disable-background-networking', '--disable-component-update', '--disable-sync', `--log-net-log=${log}`,
    ],
  });
  const page = await browser.newPage();
  const response = await page.goto(PAGE_URL);
  assert.equal(response.status(), 200);
  const echoes = await page.evaluate(async ({ url, sockets }) => {
    const converse = async (_, number) => {
      const socket = new WebSocket(url);
      const next = (type) => new Promise((resolve, reject) => {
        socket.addEventListener(type, resolve, { once: true });
        socket.addEventListener('error', () => reject(new Error('the socket failed')), { once: true });
      });
      await next('open');
      socket.send(`from ${number}`);
      const { data } = await next('message');
      socket.close(4000, 'enough');
      const { code, reason, wasClean } = await next('close');
      return [data, code, reason, wasClean];
    };
    return Promise.all(Array.from({ length: sockets }, converse));
  }, { url: ECHO_URL, sockets: SOCKETS });
  assert.deepEqual(echoes, echoes.map((_, number) => [`from ${number}`, 4000, 'enough', true]));
  await browser.close();

  const { constants, events } = JSON.parse(await readFile(log, 'utf8'));
  const isOf = (name) => (event) => event.type === constants.logEventTypes[name];
  const asked = events.filter(isOf('HTTP2_SESSION_SEND_HEADERS'))
    .filter(({ params }) => params?.headers?.some((field) => field === ':protocol: websocket'));
  assert.equal(asked.length, SOCKETS);
  assert.equal(new Set(asked.map(({ source }) => source.id)).size, 1, 'all on one connection');
  console.log(`Chromium: ok, ${SOCKETS} WebSockets on one HTTP/2 connection, by its log`);
} finally {
  await rm(scratch, { recursive: true, force: true });
}
