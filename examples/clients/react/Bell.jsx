// React, on the npm client: `npm install centrifuge`. <Bell user="ann" />
import { Centrifuge } from "centrifuge";
import { useEffect, useState } from "react";

export function Bell({ user, server = "ws://127.0.0.1:8000" }) {
  const [titles, setTitles] = useState([]);
  useEffect(() => {
    const client = new Centrifuge(`${server}/connection/websocket?name=${encodeURIComponent(user)}`);
    const getState = async () => {
      const { publications, offset, epoch } = await client.history(`bell:${user}`, { limit: 50 });
      setTitles(publications.map(({ data }) => data.title));
      return { offset, epoch }; // what comes after it comes live
    };
    const bell = client.newSubscription(`bell:${user}`, { getState });
    bell.on("publication", ({ data }) => setTitles((before) => [...before, data.title]));
    bell.subscribe();
    client.connect();
    return () => client.disconnect();
  }, [user, server]);
  return <ul aria-label="Notifications">{titles.map((title, index) => <li key={index}>{title}</li>)}</ul>;
}
