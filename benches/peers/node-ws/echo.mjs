// node's `ws`: the echo server that its documentation shows. echo.mjs PORT

import { WebSocketServer } from "ws";

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  perMessageDeflate: false,
});
server.on("connection", (socket) => {
  socket.on("error", console.error);
  socket.on("message", (message, isBinary) => socket.send(message, { binary: isBinary }));
});
server.on("listening", () => {
  console.log(`listening on ws://127.0.0.1:${server.address().port}/`);
});
