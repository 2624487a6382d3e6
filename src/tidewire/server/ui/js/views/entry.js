// Signing in and signing up: one form, two modes, each error beside its field.

import { Refusal, logIn, signUp, signUpState } from "../api.js";
import { count } from "../text.js";

const NAME = /^[A-Za-z0-9_.-]{1,32}$/;
const SHORTEST_PASSWORD = 8;
const $ = (id) => document.getElementById(id);

const WORDS = {
  in: { title: "Sign in", submit: "Sign in", question: "New here?", other: "Create an account" },
  up: { title: "Create an account", submit: "Create account", question: "Already here?", other: "Sign in instead" },
};

export class EntryView {
  #entered;
  #isCreating = false;
  #timer = 0;
  #until = 0;

  /** `entered({token, username, stay})` is called when the server agreed. */
  constructor({ entered }) {
    this.#entered = entered;
    $("entry-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!$("entry-submit").disabled) this.#submit();
    });
    $("entry-switch").addEventListener("click", () => {
      $("entry-notice").hidden = true;
      this.#mode(!this.#isCreating);
      $("username").focus();
    });
    $("reveal").addEventListener("click", reveal);
  }

  show(notice) {
    $("entry-notice").textContent = notice;
    $("entry-notice").hidden = !notice;
    this.#mode(false);
    $("entry").hidden = false;
    $("username").focus();
    this.#offer(notice);
  }

  // The first visitor of an empty server has no account to sign in with.
  async #offer(notice) {
    const { allowed, first } = await signUpState();
    document.querySelector(".entry-switch").hidden = !allowed;
    if (!first || notice || this.#isCreating || $("username").value || $("password").value) return;
    this.#mode(true);
    $("entry-notice").textContent = "Nobody has an account on this server yet. Make the first one: a name and a password, no e-mail.";
    $("entry-notice").hidden = false;
  }

  #mode(isCreating) {
    this.#isCreating = isCreating;
    const words = isCreating ? WORDS.up : WORDS.in;
    clearProblems();
    $("entry-title").textContent = words.title;
    $("entry-submit").textContent = words.submit;
    $("entry-switch-text").textContent = words.question;
    $("entry-switch").textContent = words.other;
    $("password").autocomplete = isCreating ? "new-password" : "current-password";
    for (const hint of ["username-hint", "password-hint"]) $(hint).hidden = !isCreating;
  }

  #check(username, password) {
    if (!username) return ["username", "Enter your name."];
    if (this.#isCreating && !NAME.test(username)) return ["username", "A name has 1 to 32 letters, digits, - _ or ."];
    if (!password) return ["password", "Enter your password."];
    const isShort = this.#isCreating && password.length < SHORTEST_PASSWORD;
    return isShort ? ["password", `A password has at least ${SHORTEST_PASSWORD} characters.`] : null;
  }

  async #submit() {
    clearProblems();
    const username = $("username").value.trim();
    const password = $("password").value;
    const found = this.#check(username, password);
    if (found) {
      problem(...found);
      return;
    }
    $("entry-submit").disabled = true;
    try {
      const token = await (this.#isCreating ? signUp : logIn)(username, password);
      this.#entered({ token, username, stay: $("stay").checked });
    } catch (error) {
      $("entry-submit").disabled = false;
      if (!(error instanceof Refusal)) throw error;
      if (error.status === 429) this.#throttle(error.wait);
      else if (error.status === 401) problem("password", "The name or the password is wrong.");
      else problem(error.field, error.message);
    }
  }

  #throttle(seconds) {
    this.#until = Date.now() + seconds * 1000;
    problem("form", `Too many attempts. Wait ${count(seconds, "second")}, then try again.`);
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#tick(), 250);
    this.#tick();
  }

  #tick() {
    const left = Math.ceil((this.#until - Date.now()) / 1000);
    $("entry-submit").disabled = left > 0;
    if (left > 0) {
      $("entry-submit").textContent = `Try again in ${left} s`;
      return;
    }
    clearInterval(this.#timer);
    this.#mode(this.#isCreating);
  }
}

function problem(field, text) {
  $(`${field}-error`).textContent = text;
  if (field === "form") return;
  $(field).setAttribute("aria-invalid", "true");
  $(field).focus();
}

function clearProblems() {
  for (const id of ["username", "password"]) $(id).removeAttribute("aria-invalid");
  for (const id of ["username-error", "password-error", "form-error"]) $(id).textContent = "";
}

function reveal() {
  const isShown = $("password").type === "text";
  $("password").type = isShown ? "password" : "text";
  $("reveal").textContent = isShown ? "Show" : "Hide";
  $("reveal").setAttribute("aria-pressed", String(!isShown));
}
