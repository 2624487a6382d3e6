// The actions: publish, ask why, disconnect, unsubscribe, remove history. Each is a call of the HTTP API.

import { call } from "./api.js";
import { typedForm } from "./form.js";

const byId = (id) => document.getElementById(id);

/** Ask before something that cannot be undone. */
export function confirmed(text) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent = text;
  dialog.showModal();
  return new Promise((resolve) => {
    const end = (answer) => {
      dialog.close();
      resolve(answer);
    };
    byId("confirm-yes").onclick = () => end(true);
    byId("confirm-no").onclick = () => end(false);
    dialog.oncancel = () => resolve(false);
  });
}

/** Answer a form with a sentence, for success and failure. */
function answering(form, answer, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    answer.textContent = "";
    try {
      answer.textContent = await work();
    } catch (error) {
      answer.textContent = error.message;
    }
  });
}

export function listenToForms() {
  typedForm(byId("publish-channel"), byId("publish-fields"), byId("publish-data"));
  answering(byId("publish-form"), byId("publish-answer"), async () => {
    let data;
    try {
      data = JSON.parse(byId("publish-data").value);
    } catch (error) {
      return `This is not JSON: ${error.message}`;
    }
    const { offset } = await call("publish", { channel: byId("publish-channel").value, data });
    return offset ? `Kept at offset ${offset}.` : "Published.";
  });
  answering(byId("why-form"), byId("why-answer"), async () => {
    const question = { user: byId("why-user").value, channel: byId("why-channel").value, action: byId("why-action").value };
    const { allowed, reason, rule } = await call("why", question);
    const name = question.user || "A stranger";
    return `${name} ${allowed ? "may" : "may not"} ${question.action} in ${question.channel}: ${reason} (rule ${rule}).`;
  });
}
