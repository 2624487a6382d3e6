// Where the page begins: signed in or not.

import { Page } from "./page.js";
import { forget, load, personalBox, save, watchSignOut, withdrawCookie } from "./session.js";
import { Box, passing } from "./storage.js";
import { EntryView } from "./views/entry.js";

const notes = new Box(passing, "tidewire:");

/** Forget the session and begin anew, so that nothing of one person is left in the page of another. */
function signOut(notice = "") {
  forget();
  withdrawCookie();
  notes.set("notice", notice);
  location.reload();
}

function start(session) {
  document.getElementById("entry").hidden = true;
  document.getElementById("chat").hidden = false;
  const box = personalBox(session);
  const page = new Page({ session, box, signOut });
  page.start();
  watchSignOut(() => {
    page.forget();
    signOut("You signed out in another tab.");
  });
}

const session = load();
if (session) {
  start(session);
} else {
  const notice = notes.get("notice", "");
  notes.remove("notice");
  const entry = new EntryView({
    entered(found) {
      save(found);
      start(found);
    },
  });
  entry.show(notice);
}
