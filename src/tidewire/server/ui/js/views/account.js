// The dialog of one's own account: change the password, sign out on every device.

import { Refusal, changePassword } from "../api.js";
import { count } from "../text.js";

const $ = (id) => document.getElementById(id);
const fields = { password: "old-password", new: "new-password" };

export class AccountDialog {
  #dialog = $("account-dialog");
  #token;

  constructor({ token, everywhere }) {
    this.#token = token;
    this.#dialog.querySelector("[data-close]").addEventListener("click", () => this.#dialog.close());
    $("password-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#change();
    });
    $("sign-out-everywhere").addEventListener("click", () => {
      this.#dialog.close();
      everywhere();
    });
  }

  open() {
    this.#say("");
    $("password-form").reset();
    this.#dialog.showModal();
    $(fields.password).focus();
  }

  async #change() {
    this.#say("");
    const [before, after] = [$(fields.password).value, $(fields.new).value];
    if (!before) return this.#wrong("password", "Write the password that you have now.");
    if ([...after].length < 8) return this.#wrong("new", "A password has at least 8 characters.");
    $("password-change").disabled = true;
    try {
      const ended = await changePassword(this.#token, before, after);
      $("password-form").reset();
      const others = ended ? ` ${count(ended, "other session has", "other sessions have")} ended.` : "";
      this.#say(`Your password is changed.${others}`);
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      this.#wrong(refusal.field, refusal.message);
    } finally {
      $("password-change").disabled = false;
    }
  }

  #wrong(field, text) {
    const name = fields[field];
    $(name ? `${name}-error` : "account-problem").textContent = text;
    if (!name) return;
    $(name).setAttribute("aria-invalid", "true");
    $(name).focus();
  }

  #say(text) {
    $("account-said").textContent = text;
    $("account-problem").textContent = "";
    for (const name of Object.values(fields)) {
      $(`${name}-error`).textContent = "";
      $(name).removeAttribute("aria-invalid");
    }
  }
}
