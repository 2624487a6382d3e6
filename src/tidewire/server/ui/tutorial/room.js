import { connect } from "/connection/tidewire.js";

export function enter(channel, name, page) {
  const client = connect("/connection/websocket", {
    data: { tidewire: "playground", name }, // no login is needed here
    WebSocket: page.Socket, // for the button that cuts it: leave it out
  });
  const room = client.subscribe(channel, (message) => page.show(message));
  room.on("subscribed", (how) => page.entered(how));
  room.on("join", () => page.list(room.presence()));
  room.on("leave", () => page.list(room.presence()));
  client.on("connecting", ({ reason }) => page.away(reason));
  client.on("disconnected", ({ reason }) => page.away(reason));
  return {
    publish: (text) => room.publish({ name, text }),
    history: () => room.history({ limit: 20, reverse: true }),
    isMine: (member) => member.client === client.id,
    leave: () => client.disconnect(),
  };
}
