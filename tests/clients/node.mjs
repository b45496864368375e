// node's `ws` against a running server: node.mjs ws://HOST:PORT/PATH off|pass-through

import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";

const [url, compression] = process.argv.slice(2);

const messages = [
  "hello",
  "",
  "héllo wörld ✓ ".repeat(10_000),
  Buffer.alloc(0),
  Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => i % 64)),
];

// Each is what the client offers, and what must be agreed on if the server agrees on anything.
const offers = [
  [{}, "permessage-deflate"],
  [{ clientNoContextTakeover: true }, "permessage-deflate"],
  [
    { serverNoContextTakeover: true },
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
  ],
  [
    { serverMaxWindowBits: 12 },
    "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
  ],
  [
    { serverMaxWindowBits: 9, clientMaxWindowBits: 9, serverNoContextTakeover: true },
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; " +
      "server_max_window_bits=9; client_max_window_bits=9",
  ],
];

await converse(false, undefined);
for (const [offer, agreement] of offers) {
  await converse({ ...offer, threshold: 0 }, compression === "off" ? undefined : agreement);
}
// A client that cannot be told to use a smaller window cannot have one for its echoes.
await converse({ serverMaxWindowBits: 9, clientMaxWindowBits: false, threshold: 0 }, undefined);
console.log(`ws for node: ok, ${offers.length} offers`);

async function converse(perMessageDeflate, agreement) {
  const client = new WebSocket(url, { perMessageDeflate });
  client.once("upgrade", (response) => {
    assert.equal(response.headers["sec-websocket-extensions"], agreement);
  });
  await once(client, "open");
  for (const message of messages) {
    client.send(message);
    const [echo, isBinary] = await once(client, "message");
    assert.equal(isBinary, Buffer.isBuffer(message));
    assert.ok(echo.equals(Buffer.from(message)));
  }
  const { bytesWritten, bytesRead } = client._socket;
  for (const onTheWire of [bytesWritten, bytesRead]) {
    assert.equal(onTheWire < 100_000, agreement !== undefined, `${onTheWire} bytes`);
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
}
