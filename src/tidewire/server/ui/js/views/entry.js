// Signing in and signing up: one form, two modes, each error beside its field.

import { Refusal, logIn, signUp } from "../api.js";
import { count } from "../text.js";

const NAME = /^[A-Za-z0-9_.-]{1,32}$/;
const $ = (id) => document.getElementById(id);

/** Show the form; `entered({token, username, stay})` is called when the server agreed. */
export function showEntry({ notice = "", entered }) {
  const form = $("entry-form");
  let creating = false;
  let waiting = 0;
  let until = 0;

  function mode(toCreate) {
    creating = toCreate;
    clear();
    $("entry-title").textContent = creating ? "Create an account" : "Sign in";
    $("entry-submit").textContent = creating ? "Create account" : "Sign in";
    $("entry-switch-text").textContent = creating ? "Already here?" : "New here?";
    $("entry-switch").textContent = creating ? "Sign in instead" : "Create an account";
    $("password").autocomplete = creating ? "new-password" : "current-password";
    for (const hint of ["username-hint", "password-hint"]) $(hint).hidden = !creating;
  }

  function clear() {
    for (const id of ["username", "password"]) $(id).removeAttribute("aria-invalid");
    for (const id of ["username-error", "password-error", "form-error"]) $(id).textContent = "";
  }

  function problem(field, text) {
    $(`${field}-error`).textContent = text;
    if (field === "form") return;
    $(field).setAttribute("aria-invalid", "true");
    $(field).focus();
  }

  function check(username, password) {
    if (!username) return ["username", "Enter your name."];
    if (creating && !NAME.test(username)) return ["username", "A name has 1 to 32 letters, digits, - _ or ."];
    if (!password) return ["password", "Enter your password."];
    if (creating && password.length < 8) return ["password", "A password has at least 8 characters."];
    return null;
  }

  function throttle(seconds) {
    until = Date.now() + seconds * 1000;
    $("form-error").textContent = `Too many attempts. Wait ${count(seconds, "second")}, then try again.`;
    clearInterval(waiting);
    waiting = setInterval(tick, 250);
    tick();
  }

  function tick() {
    const left = Math.ceil((until - Date.now()) / 1000);
    $("entry-submit").disabled = left > 0;
    if (left > 0) {
      $("entry-submit").textContent = `Try again in ${left} s`;
      return;
    }
    clearInterval(waiting);
    mode(creating);
  }

  async function submit(event) {
    event.preventDefault();
    if ($("entry-submit").disabled) return;
    clear();
    const username = $("username").value.trim();
    const password = $("password").value;
    const found = check(username, password);
    if (found) return problem(...found);
    $("entry-submit").disabled = true;
    try {
      const token = await (creating ? signUp : logIn)(username, password);
      entered({ token, username, stay: $("stay").checked });
    } catch (error) {
      $("entry-submit").disabled = false;
      if (!(error instanceof Refusal)) throw error;
      if (error.status === 429) throttle(error.wait);
      else problem(error.field, error.message);
    }
  }

  form.addEventListener("submit", submit);
  $("entry-switch").addEventListener("click", () => {
    mode(!creating);
    $("username").focus();
  });
  $("reveal").addEventListener("click", () => {
    const shown = $("password").type === "text";
    $("password").type = shown ? "password" : "text";
    $("reveal").textContent = shown ? "Show" : "Hide";
    $("reveal").setAttribute("aria-pressed", String(!shown));
  });
  $("entry-notice").textContent = notice;
  $("entry-notice").hidden = !notice;
  mode(false);
  $("entry").hidden = false;
  $("username").focus();
}
