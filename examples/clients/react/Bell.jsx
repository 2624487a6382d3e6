// React, on the npm client: `npm install centrifuge`. <Bell user="ann" />
import { Centrifuge } from "centrifuge";
import { useEffect, useState } from "react";

export function Bell({ user, server = "ws://127.0.0.1:8000" }) {
  const [titles, setTitles] = useState([]);
  useEffect(() => {
    const client = new Centrifuge(`${server}/connection/websocket?name=${encodeURIComponent(user)}`);
    const bell = client.newSubscription(`bell:${user}`);
    bell.on("publication", ({ data }) => setTitles((before) => [...before, data.title]));
    let isWhole = false;
    bell.on("subscribed", async ({ wasRecovering, recovered }) => {
      if (wasRecovering && recovered && isWhole) return; // what was missed has come already
      isWhole = false;
      const { publications } = await bell.history({ limit: 50 });
      isWhole = true; // a connection that was lost meanwhile reads it again
      setTitles(publications.map(({ data }) => data.title));
    });
    bell.subscribe();
    client.connect();
    return () => client.disconnect();
  }, [user, server]);
  return <ul aria-label="Notifications">{titles.map((title, index) => <li key={index}>{title}</li>)}</ul>;
}
