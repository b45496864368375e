// node's `http2` against a running server (RFC 8441): node-http2.mjs ws://HOST:PORT/PATH off|pass-through
//
// node is the peer of the streams; the few frames on them are written here.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import http2 from "node:http2";

const STREAMS = 20;
const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

const [url, compression] = process.argv.slice(2);
const { host, pathname } = new URL(url);
const session = http2.connect(`http://${host}`, { settings: { initialWindowSize: 1 << 20 } });
const [settings] = await once(session, "remoteSettings");
assert.equal(settings.enableConnectProtocol, true);
session.setLocalWindowSize(32 << 20);

const messages = [
  [TEXT, Buffer.from("hello")],
  [TEXT, Buffer.alloc(0)],
  [TEXT, Buffer.from("héllo wörld ✓ ".repeat(10_000))],
  [BINARY, Buffer.alloc(0)],
  [BINARY, Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => i % 251))],
];

async function open(headers = {}) {
  const stream = session.request(
    {
      ":method": "CONNECT",
      ":protocol": "websocket",
      ":scheme": "http",
      ":authority": host,
      ":path": pathname,
      "sec-websocket-version": "13",
      ...headers,
    },
    { endStream: false },
  );
  const [response] = await once(stream, "response");
  return { stream, response };
}

function encode(opcode, payload) {
  const length = Buffer.alloc(8);
  length.writeBigUInt64BE(BigInt(payload.length));
  const [code, tail] =
    payload.length < 126 ? [payload.length, 8] : payload.length < 65_536 ? [126, 6] : [127, 0];
  const key = randomBytes(4);
  const masked = payload.map((byte, at) => byte ^ key[at % 4]);
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | code]), length.subarray(tail), key, masked]);
}

// The frames that the server sends, each whole.
async function* decode(stream) {
  let bytes = Buffer.alloc(0);
  for await (const piece of stream) {
    bytes = Buffer.concat([bytes, piece]);
    while (bytes.length >= 2) {
      const code = bytes[1];
      const at = code < 126 ? 2 : code === 126 ? 4 : 10;
      if (bytes.length < at) break;
      const length =
        code < 126 ? code : code === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
      if (bytes.length < at + length) break;
      yield [bytes[0] & 0x0f, bytes.subarray(at, at + length), bytes[0] >= 0x80];
      bytes = bytes.subarray(at + length);
    }
  }
}

// Long messages come back in several frames of one message, or in one.
async function nextMessage(frames) {
  const pieces = [];
  let opcode;
  for (;;) {
    const { value, done } = await frames.next();
    assert.ok(!done, "the stream is over");
    opcode ??= value[0];
    pieces.push(value[1]);
    if (value[2]) return [opcode, Buffer.concat(pieces)];
  }
}

async function converse() {
  const { stream, response } = await open();
  assert.equal(response[":status"], 200);
  assert.equal(response["sec-websocket-accept"], undefined);
  const frames = decode(stream);
  for (const [opcode, payload] of messages) {
    stream.write(encode(opcode, payload));
    assert.deepEqual(await nextMessage(frames), [opcode, payload]);
  }
  stream.write(encode(PING, Buffer.from("beat")));
  assert.deepEqual(await nextMessage(frames), [PONG, Buffer.from("beat")]);
  const reason = Buffer.from([4000 >> 8, 4000 & 0xff, ...Buffer.from("enough")]);
  stream.write(encode(CLOSE, reason));
  assert.deepEqual(await nextMessage(frames), [CLOSE, reason]);
  assert.ok((await frames.next()).done);
  stream.end();
  if (!stream.closed) await once(stream, "close");
  assert.equal(stream.rstCode, http2.constants.NGHTTP2_NO_ERROR);
}

async function get(path, method = "GET") {
  const stream = session.request({ ":method": method, ":path": path });
  stream.end();
  const [response] = await once(stream, "response");
  let body = "";
  for await (const piece of stream.setEncoding("utf8")) body += piece;
  return { status: response[":status"], length: Number(response["content-length"]), body };
}

await Promise.all(Array.from({ length: STREAMS }, converse));

const offer = "permessage-deflate; client_max_window_bits";
const { stream, response } = await open({ "sec-websocket-extensions": offer });
const agreed = response["sec-websocket-extensions"] ?? "";
assert.equal(agreed.startsWith("permessage-deflate"), compression === "pass-through", agreed);
stream.close(http2.constants.NGHTTP2_CANCEL);

const page = await get("/");
assert.deepEqual([page.status, page.length], [200, Buffer.byteLength(page.body)]);
assert.ok(page.body.trimEnd().endsWith("</html>"));
const head = await get("/", "HEAD");
assert.deepEqual([head.status, head.length, head.body], [200, page.length, ""]);
assert.deepEqual(await get("/healthz"), { status: 200, length: 3, body: "ok\n" });
assert.equal((await get("/nowhere")).status, 404);

session.close();
await once(session, "close");
console.log(`http2 for node: ok, ${STREAMS} streams at a time`);
