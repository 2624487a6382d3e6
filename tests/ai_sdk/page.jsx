// A page with the published hook `useChat`: it asks, shows the last answer, resumes when it is opened or was cut, and stops.

import { Chat, useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useEffect } from "react";
import { createRoot } from "react-dom/client";

const id = new URLSearchParams(location.search).get("chat");
const chat = new Chat({ id, transport: new DefaultChatTransport() });

function Page() {
  const { messages, sendMessage, status, error, resumeStream } = useChat({ chat, resume: true });
  const isUnfinished = !messages.length || messages.at(-1).parts.some(({ state }) => state === "streaming");
  useEffect(() => {
    if (status !== "error" || !isUnfinished) return;
    const timer = setTimeout(resumeStream, 1_000);
    return () => clearTimeout(timer);
  }, [status, error, isUnfinished]);
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
