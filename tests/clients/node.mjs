// node's `ws` against a running server: node.mjs ws://HOST:PORT/PATH

import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";

const messages = [
  "hello",
  "",
  "héllo wörld ✓ ".repeat(10_000),
  Buffer.alloc(0),
  Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => i % 256)),
];

const client = new WebSocket(process.argv[2], { perMessageDeflate: false });
await once(client, "open");
for (const message of messages) {
  client.send(message);
  const [echo, isBinary] = await once(client, "message");
  assert.equal(isBinary, Buffer.isBuffer(message));
  assert.ok(echo.equals(Buffer.from(message)));
}
client.send("in ", { fin: false });
client.send("two pieces", { fin: true });
const [joined] = await once(client, "message");
assert.equal(joined.toString(), "in two pieces");

client.ping("beat");
const [pong] = await once(client, "pong");
assert.equal(pong.toString(), "beat");

client.close(4000, "enough");
const [code, reason] = await once(client, "close");
assert.deepEqual([code, reason.toString()], [4000, "enough"]);
console.log("ws for node: ok");
