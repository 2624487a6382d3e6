// A page with the published hook `useChat`: it asks, shows the last answer, resumes when it is opened, and stops.

import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { createRoot } from "react-dom/client";

const id = new URLSearchParams(location.search).get("chat");
const transport = new DefaultChatTransport();

function Page() {
  const { messages, sendMessage, status, error } = useChat({ id, transport, resume: true });
  const answer = messages.findLast(({ role }) => role === "assistant");
  const text = (answer?.parts ?? []).filter(({ type }) => type === "text").map((part) => part.text);
  return (
    <main>
      <button id="ask" onClick={() => sendMessage({ text: "100000" })}>
        ask
      </button>
      <button id="stop" onClick={() => fetch(`/api/chat/${id}/stream`, { method: "DELETE" })}>
        stop
      </button>
      <p id="status">{status}</p>
      <p id="error">{error?.message}</p>
      <p id="text">{text.join("")}</p>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Page />);
