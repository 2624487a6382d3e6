// The broadcast of the `ws` README, with rooms: one send per message and subscriber, no compression.
import { createRequire } from "node:module";

const [port, modules, pingSeconds] = process.argv.slice(2);
const { WebSocketServer, WebSocket } = createRequire(modules + "/")("ws");
const rooms = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), perMessageDeflate: false, backlog: 4096 });

server.on("connection", (socket, request) => {
  const room = request.url;
  if (!rooms.has(room)) rooms.set(room, new Set());
  const members = rooms.get(room);
  members.add(socket);
  socket.on("error", () => socket.terminate());
  socket.on("close", () => members.delete(socket));
  socket.on("message", (data, isBinary) => {
    for (const member of members) {
      if (member.readyState === WebSocket.OPEN) member.send(data, { binary: isBinary });
    }
  });
});

setInterval(() => {
  for (const socket of server.clients) socket.ping();
}, Number(pingSeconds) * 1000);
