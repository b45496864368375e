'use strict';

// The browser page of ringecho: one connection, messages sent by hand or in a run, and a log of both directions.
// Whatever a peer sends is data: it reaches the page through textContent only, never as HTML.
// Invariant: echoes come back in order, so the next message received answers the oldest entry of `unanswered`.

const LOG_ROWS_MAX = 1000;
const LOG_BYTES_MAX = 64 * 1024 * 1024; // payloads kept for "Show all" and "Copy"; the newest row may exceed it alone
const FILE_BYTES_MAX = 64 * 1024 * 1024; // a file is read into memory whole
const RUN_BYTES_IN_FLIGHT_MAX = 16 * 1024 * 1024; // the browser queues without limit what it cannot send yet
const DRAWING_DELAY_MS = 50;
const PREVIEW_CHARACTERS = 200;
const SHOWN_CHARACTERS_MAX = 300_000; // more in one table cell makes browsers stall
const COPIED_CHARACTERS_MAX = 10_000_000;
const TIME_FORMAT = { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 };
const MESSAGE_FIELDS = { text: 'message', hex: 'message-hex', file: 'file' };
const CLOSE_CODE_NAMES = {
  1000: 'Normal Closure', 1001: 'Going Away', 1002: 'Protocol error', 1003: 'Unsupported Data', 1005: 'No Status Rcvd',
  1006: 'Abnormal Closure', 1007: 'Invalid frame payload data', 1008: 'Policy Violation', 1009: 'Message Too Big',
  1010: 'Mandatory Ext.', 1011: 'Internal Error', 1012: 'Service Restart', 1013: 'Try Again Later',
  1014: 'Bad Gateway', 1015: 'TLS handshake',
};

// All elements with an id, by their ids.
const ui = Object.fromEntries([...document.querySelectorAll('[id]')].map((node) => [node.id, node]));

let connection = null; // the WebSocket, from its opening handshake until the next one begins
let wasOpen = false;
let unanswered = []; // { message, sentAt, run }, oldest first
let run = null; // the "Send N times" that is going on
const clockStep = measureClockStep();
const clockStepText = `${Number(clockStep.toPrecision(2))} ms`;
const utf8 = new TextEncoder();

// ---- Connection: opening handshake, data, closing handshake

function connect() {
  const subprotocols = ui.subprotocols.value.split(',').map((name) => name.trim()).filter(Boolean);
  ui['connection-error'].textContent = '';
  try {
    connection = new WebSocket(ui.url.value.trim(), subprotocols);
  } catch (error) {
    ui['connection-error'].textContent = error.message.replace(/^Failed to construct 'WebSocket': /, '');
    return;
  }
  wasOpen = false;
  unanswered = [];
  connection.binaryType = 'arraybuffer'; // a Blob would have to be read asynchronously, which could reorder echoes
  connection.addEventListener('open', opened);
  connection.addEventListener('message', received);
  connection.addEventListener('error', failed);
  connection.addEventListener('close', closed);
  showState();
}

function opened() {
  wasOpen = true;
  const { url, protocol, extensions } = connection;
  const agreed = [protocol && `subprotocol ${protocol}`, extensions && `extensions ${extensions}`].filter(Boolean);
  logEvent('opened', [`Opened ${url}`, ...agreed].join(', '));
  showState();
}

function transmit(message, ofRun) {
  unanswered.push({ message, sentAt: performance.now(), run: ofRun });
  connection.send(message);
}

function received({ data }) {
  const now = performance.now();
  const message = typeof data === 'string' ? data : new Uint8Array(data);
  const sent = unanswered.shift(); // undefined when the peer speaks unasked
  const difference = sent ? differenceBetween(sent.message, message) : null;
  if (sent?.run) {
    recordEcho(sent.run, now, now - sent.sentAt, difference);
  } else {
    logMessage('received', message, sent ? now - sent.sentAt : null, difference);
  }
}

// Browsers hide why a connection failed, so that no page can explore a network by trying connections.
function failed() {
  logEvent('warning', wasOpen
    ? 'Error: the connection was lost, or the peer broke the protocol'
    : `Error: could not connect to ${connection.url} (no server there, or it refused the opening handshake)`);
}

function closeFromClient() {
  connection.close(1000, 'Closing from client');
  showState();
}

function closed({ code, reason, wasClean }) {
  const text = [`Closed with code ${code}${CLOSE_CODE_NAMES[code] ? ` (${CLOSE_CODE_NAMES[code]})` : ''}`];
  if (reason) text.push(`reason “${reason}”`);
  if (!wasClean) text.push('without a complete closing handshake');
  const unansweredByHand = unanswered.filter((sent) => !sent.run).length;
  if (unansweredByHand > 0) text.push(`${count(unansweredByHand, 'message')} not answered`);
  if (run) finishRun('the connection closed');
  const asIntended = wasClean && (code <= 1001 || code === 1005 || code >= 3000);
  logEvent(asIntended ? 'closed' : 'warning', text.join(', '));
  showState();
}

function isOpen() {
  return connection?.readyState === WebSocket.OPEN;
}

// ---- Message: what the box holds

async function sendOnce() {
  const message = await readMessage();
  if (message === null) return;
  transmit(message, null); // sent before its row is made, since making the row would count as round trip
  logMessage('sent', message, null, null);
}

// The message to send, or null after showing why it cannot be sent.
async function readMessage() {
  try {
    if (!isOpen()) throw new Error('Not connected: press Connect first.');
    const message = await parseMessage();
    if (!isOpen()) throw new Error('The connection closed while the file was read.');
    ui['message-error'].textContent = '';
    return message;
  } catch (error) {
    ui['message-error'].textContent = error.message;
    return null;
  }
}

async function parseMessage() {
  const mode = selectedMode();
  if (mode === 'text') return ui.message.value;
  if (mode === 'hex') return parseHex(ui['message-hex'].value);
  const file = ui.file.files[0];
  if (!file) throw new Error('Choose a file first.');
  if (file.size > FILE_BYTES_MAX) {
    throw new Error(`${file.name} has ${count(file.size, 'byte')}; at most ${count(FILE_BYTES_MAX, 'byte')} can be sent from here.`);
  }
  return new Uint8Array(await file.arrayBuffer());
}

function parseHex(text) {
  const stray = /[^0-9a-f\s]/iu.exec(text);
  if (stray) throw new Error(`“${stray[0]}” at position ${stray.index + 1} is not a hex digit (0-9, a-f).`);
  const digits = text.replace(/\s/g, '');
  if (digits.length % 2) throw new Error(`An odd number of hex digits (${digits.length}): each byte takes two.`);
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

function selectedMode() {
  return document.querySelector('[name="mode"]:checked').value;
}

// Shows the field of the chosen mode and, while it is edited, its size or its fault.
function showMessageField() {
  const mode = selectedMode();
  for (const field of document.querySelectorAll('[data-mode]')) field.hidden = field.dataset.mode !== mode;
  ui.keys.hidden = mode === 'file';
  let size = '';
  let fault = '';
  try {
    if (mode === 'text') size = count(byteLength(ui.message.value), 'byte');
    if (mode === 'hex') size = count(parseHex(ui['message-hex'].value).length, 'byte');
    if (mode === 'file') size = ui.file.files[0] ? count(ui.file.files[0].size, 'byte') : 'Sent as one binary message';
  } catch (error) {
    fault = error.message;
  }
  ui['message-size'].textContent = size;
  ui['message-error'].textContent = fault;
}

function sendOnEnter(event) {
  // While an input method composes a word, Enter belongs to it.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!run) sendOnce();
}

// ---- Send N times: a fixed number of messages in flight, an echo frees the place for the next

async function startRun() {
  const message = await readMessage();
  if (message === null || run) return;
  const placesForSize = Math.max(1, Math.floor(RUN_BYTES_IN_FLIGHT_MAX / Math.max(1, byteLength(message))));
  const total = ui['repeat-count'].valueAsNumber;
  run = {
    message,
    total,
    depth: Math.min(ui['repeat-depth'].valueAsNumber, placesForSize),
    roundTrips: new Float64Array(total),
    sent: 0,
    echoed: 0,
    differing: 0,
    startedAt: performance.now(),
    lastEchoAt: 0,
  };
  ui['repeat-result'].replaceChildren();
  showState();
  followProgress();
  fillPlaces();
}

function fillPlaces() {
  while (run.sent < run.total && run.sent - run.echoed < run.depth && isOpen()) {
    run.sent += 1;
    transmit(run.message, run);
  }
}

function recordEcho(ofRun, now, roundTrip, difference) {
  if (ofRun !== run) return; // a late echo of a run that was stopped
  run.roundTrips[run.echoed] = roundTrip;
  run.echoed += 1;
  run.lastEchoAt = now;
  if (difference) run.differing += 1;
  if (run.echoed === run.total) finishRun(null);
  else fillPlaces();
}

function finishRun(stoppedBecause) {
  const finished = run;
  run = null;
  const result = summarise(finished);
  const outcome = [`${count(finished.echoed, 'echo', 'echoes')} of ${formatNumber(finished.total)}`,
    `${count(byteLength(finished.message), 'byte')} each`, `${finished.depth} in flight`];
  if (result) outcome.push(`in ${result.seconds.toFixed(2)} s (${result.rate} messages/s)`);
  if (finished.differing) outcome.push(`${count(finished.differing, 'echo differs', 'echoes differ')} from the message`);
  else if (result) outcome.push('all equal to the message');
  if (stoppedBecause) outcome.push(`stopped: ${stoppedBecause}`);

  const figures = result ? Object.entries(result.figures) : [];
  const cells = figures.map(([name, value]) => element('div', '', element('dt', '', name), element('dd', '', value)));
  const text = `${outcome.join(', ')}. The browser’s clock ticks every ${clockStepText}.`;
  ui['repeat-result'].replaceChildren(
    element('dl', 'figures', ...cells), element('p', finished.differing ? 'error' : 'hint', text));
  logEvent(finished.differing ? 'warning' : 'run',
    `Sent N times: ${outcome.join(', ')}${figures.map(([name, value]) => `, ${name} ${value}`).join('')}`);
  showProgress(finished);
  showState();
}

function summarise({ echoed, roundTrips, startedAt, lastEchoAt }) {
  if (echoed === 0) return null;
  const sorted = roundTrips.slice(0, echoed).sort();
  const atQuantile = (q) => formatDuration(sorted[Math.ceil(q * echoed) - 1]);
  const seconds = Math.max(lastEchoAt - startedAt, clockStep) / 1000;
  return {
    seconds,
    rate: formatNumber(Math.round(echoed / seconds)),
    figures: { p50: atQuantile(0.5), p99: atQuantile(0.99), min: formatDuration(sorted[0]), max: formatDuration(sorted[echoed - 1]) },
  };
}

// Once per picture: a run gets thousands of echoes a second, and the page shows some sixty pictures.
function followProgress() {
  if (!run) return;
  showProgress(run);
  requestAnimationFrame(followProgress);
}

function showProgress({ echoed, total }) {
  ui['repeat-progress'].value = echoed / total;
  ui['repeat-echoed'].textContent = formatNumber(echoed);
}

// ---- Communication Log: bounded in rows and bytes, newest at the bottom

let waitingRows = []; // { row, bytes }, made but not drawn yet
const keptBytes = []; // for each row drawn, oldest first
let keptBytesTotal = 0;

function logMessage(direction, message, roundTrip, difference) {
  const [from, to] = direction === 'sent' ? ['Client', 'Server'] : ['Server', 'Client'];
  const data = element('td', 'data', ...messageParts(message));
  if (difference) data.append(element('p', 'difference', `Differs from the message sent: ${difference}`));
  appendRow(difference ? `${direction} warning` : direction, byteLength(message),
    element('td', 'from', from), element('td', 'to', to), data,
    element('td', 'round-trip', roundTrip === null ? '' : formatDuration(roundTrip)));
}

function logEvent(kind, text) {
  const data = element('td', 'data', text);
  data.colSpan = 4;
  appendRow(`event ${kind}`, 0, data);
}

// Rows are drawn a moment later, together: the browser receives no echo while it draws, so drawing would count as round trip.
function appendRow(kind, bytes, ...cells) {
  const time = new Date().toLocaleTimeString('en-GB', TIME_FORMAT);
  const row = element('tr', kind, element('td', 'time', time), ...cells);
  if (waitingRows.length === 0) setTimeout(drawRows, DRAWING_DELAY_MS);
  waitingRows.push({ row, bytes });
  if (waitingRows.length > LOG_ROWS_MAX) waitingRows.shift(); // timers of a tab in the background may come late
}

function drawRows() {
  const following = isAtBottom(); // a reader who has scrolled up keeps the place
  for (const { row, bytes } of waitingRows) {
    ui.log.append(row);
    keptBytes.push(bytes);
    keptBytesTotal += bytes;
  }
  waitingRows = [];
  while (keptBytes.length > LOG_ROWS_MAX || (keptBytesTotal > LOG_BYTES_MAX && keptBytes.length > 1)) {
    ui.log.firstElementChild.remove();
    keptBytesTotal -= keptBytes.shift();
  }
  ui['log-count'].textContent = keptBytes.length > 0 ? count(keptBytes.length, 'row') : '';
  if (following) showLatest();
  else ui.latest.hidden = false;
}

function isAtBottom() {
  const { scrollHeight, scrollTop, clientHeight } = ui['log-scroll'];
  return scrollHeight - scrollTop - clientHeight < 30;
}

function showLatest() {
  ui['log-scroll'].scrollTop = ui['log-scroll'].scrollHeight;
  ui.latest.hidden = true;
}

function clearLog() {
  waitingRows = [];
  ui.log.replaceChildren();
  keptBytes.length = 0;
  keptBytesTotal = 0;
  drawRows();
}

// The start of the message, its size, and for a long one the ways to the rest.
function messageParts(message) {
  const [characters, kind] = typeof message === 'string' ? [message.length, 'text'] : [3 * message.length, 'binary'];
  const size = element('span', 'note', `${kind}, ${count(byteLength(message), 'byte')}`);
  const payload = element('span', characters > PREVIEW_CHARACTERS ? 'payload long' : 'payload', display(message, PREVIEW_CHARACTERS));
  if (characters === 0) return [size];
  if (characters <= PREVIEW_CHARACTERS) return [payload, size];

  const expand = element('button', 'small', characters > SHOWN_CHARACTERS_MAX ? 'Show more' : 'Show all');
  expand.addEventListener('click', () => {
    const expanded = expand.getAttribute('aria-expanded') === 'true';
    payload.textContent = display(message, expanded ? PREVIEW_CHARACTERS : SHOWN_CHARACTERS_MAX);
    expand.setAttribute('aria-expanded', String(!expanded));
  });
  expand.setAttribute('aria-expanded', 'false');
  // Browsers offer the clipboard over https and on localhost only.
  if (!navigator.clipboard || characters > COPIED_CHARACTERS_MAX) return [payload, size, expand];
  const copy = element('button', 'small', 'Copy');
  copy.addEventListener('click', async () => {
    const done = await navigator.clipboard.writeText(display(message, Infinity)).then(() => true, () => false);
    copy.textContent = done ? 'Copied' : 'Copy refused';
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  });
  return [payload, size, expand, copy];
}

function display(message, charactersMax) {
  if (typeof message !== 'string') {
    const shown = message.subarray(0, charactersMax / 3);
    return Array.from(shown, (byte) => byte.toString(16).padStart(2, '0')).join(' ') + (shown.length < message.length ? ' …' : '');
  }
  if (message.length <= charactersMax) return message;
  return `${message.slice(0, charactersMax).replace(/[\ud800-\udbff]$/, '')}…`; // never half of a surrogate pair
}

// ---- Values

function byteLength(message) {
  return typeof message === 'string' ? utf8.encode(message).length : message.length;
}

// Null when equal, otherwise where the first difference is.
function differenceBetween(sent, echo) {
  if (sent === echo) return null;
  if (typeof sent !== typeof echo) return typeof sent === 'string' ? 'text came back as binary' : 'binary came back as text';
  const unit = typeof sent === 'string' ? 'character' : 'byte';
  const lengthMin = Math.min(sent.length, echo.length);
  for (let i = 0; i < lengthMin; i++) {
    if (sent[i] !== echo[i]) return `first at ${unit} ${formatNumber(i + 1)}`;
  }
  return sent.length === echo.length ? null : `${count(echo.length, unit)} instead of ${formatNumber(sent.length)}`;
}

function count(number, one, many = `${one}s`) {
  return `${formatNumber(number)} ${number === 1 ? one : many}`;
}

function formatNumber(number) {
  return number.toLocaleString('en-US');
}

function formatDuration(ms) {
  if (ms < clockStep) return `< ${clockStepText}`;
  return ms < 10 ? `${ms.toFixed(2)} ms` : `${formatNumber(Math.round(ms))} ms`;
}

// Browsers coarsen performance.now(), each in its own way; a time below the clock's step must not be shown as zero.
function measureClockStep() {
  let step = Infinity;
  for (let tick = 0; tick < 4; tick++) {
    const before = performance.now();
    let after = before;
    while (after === before) after = performance.now();
    step = Math.min(step, after - before);
  }
  return step;
}

// ---- Page

function element(name, className, ...content) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

function showState() {
  const [key, label] = connection
    ? [['connecting', 'Connecting…'], ['open', 'Open'], ['closing', 'Closing…'], ['closed', 'Closed']][connection.readyState]
    : ['disconnected', 'Disconnected'];
  ui.state.textContent = label;
  ui.state.dataset.state = key;
  const connectable = key === 'disconnected' || key === 'closed';
  ui.url.readOnly = !connectable;
  ui.subprotocols.readOnly = !connectable;
  const usable = {
    connect: connectable, close: key === 'connecting' || key === 'open',
    send: isOpen() && !run, repeat: isOpen() && !run, 'repeat-stop': run !== null,
  };
  // A disabled button drops the keyboard's focus: hand it to what comes next.
  const next = { connect: MESSAGE_FIELDS[selectedMode()], close: 'connect', repeat: 'repeat-stop', 'repeat-stop': 'repeat' };
  const focused = document.activeElement?.matches(':focus-visible') ? document.activeElement.id : '';
  for (const [id, enabled] of Object.entries(usable)) ui[id].disabled = !enabled;
  if (usable[focused] === false) ui[next[focused]]?.focus();
}

function onSubmit(form, act) {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    act();
  });
}

// The page is at the server's root, which a proxy may have put below a prefix of its own.
const root = `${location.protocol === 'https:' ? 'wss:' : 'ws:'}//${location.host}${location.pathname.replace(/\/$/, '')}`;
ui.url.value = `${root}${document.body.dataset.path}`;
onSubmit(ui['connection-form'], connect);
onSubmit(ui['message-form'], sendOnce);
onSubmit(ui['repeat-form'], startRun);
ui.close.addEventListener('click', closeFromClient);
ui['message-form'].addEventListener('input', showMessageField);
ui.message.addEventListener('keydown', sendOnEnter);
ui['message-hex'].addEventListener('keydown', sendOnEnter);
ui['repeat-stop'].addEventListener('click', () => finishRun('by hand'));
ui['log-scroll'].addEventListener('scroll', () => { if (isAtBottom()) ui.latest.hidden = true; }, { passive: true });
ui.latest.addEventListener('click', showLatest);
ui.clear.addEventListener('click', clearLog);
addEventListener('pageshow', showMessageField); // after a reload, when the browser has put the fields' contents back
showState();
