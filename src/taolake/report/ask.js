// The page that asks people: shows one group of answers at a time and keeps what was said in this browser.
// Texts are put in as text, never as markup. Nothing is sent anywhere: the person downloads a file.
"use strict";

const ask = JSON.parse(document.getElementById("ask").textContent);
const key = "taolake-ask-" + ask.page;
const $ = (id) => document.getElementById(id);

let stored = true; // some browsers keep nothing for pages opened from a file
let state = { annotator: ask.annotator, at: 0, said: {} };
let since = 0; // when the group on the screen began to be looked at; 0 while the page is hidden

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(key));
    if (kept?.said) state = Object.assign(state, kept);
    localStorage.setItem(key + "-try", ""); // not the state: another tab may have more to say than was read here
  } catch {
    stored = false;
  }
  $("unstored").hidden = stored;
}

function save() {
  if (stored) {
    try {
      localStorage.setItem(key, JSON.stringify(state));
    } catch {
      stored = false;
      $("unstored").hidden = false;
    }
  }
  progress();
}

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const item = () => ask.items[state.at];
const said = (one) => state.said[one.prompt_id];
const answered = () => ask.items.filter((one) => said(one) && said(one).verdict).length;

function spend() {
  const seconds = since ? (performance.now() - since) / 1000 : 0;
  since = document.hidden ? 0 : performance.now();
  if (state.at >= ask.items.length) return;
  const entry = (state.said[item().prompt_id] ??= { verdict: "", chosen: null, seconds: 0, edits: {} });
  if (!entry.verdict) entry.seconds += seconds; // looking at it again afterwards is not deciding
}

function decide(verdict, chosen) {
  if (state.at >= ask.items.length) return;
  spend();
  const entry = said(item());
  const again = entry.verdict === verdict && entry.chosen === chosen;
  entry.verdict = again ? "" : verdict;
  entry.chosen = again ? null : chosen;
  save();
  mark();
}

function move(to) {
  spend();
  state.at = Math.max(0, Math.min(ask.items.length, to));
  save();
  show();
  window.scrollTo(0, 0);
  $(state.at < ask.items.length ? "question" : "end-title").focus({ preventScroll: true });
}

function progress() {
  const done = answered();
  $("bar").max = ask.items.length;
  $("bar").value = done;
  $("count").textContent = `${done} of ${ask.items.length} answered`;
  for (const id of ["download", "download-end"]) $(id).disabled = !done;
}

function card(answer, number) {
  const choose = make("button", { type: "button", class: "choose", "data-candidate": answer.candidate_id },
    make("kbd", {}, String(number)), make("span", {}, "This is the best"));
  choose.addEventListener("click", () => decide("best", answer.candidate_id));
  const text = make("div", { class: "text", dir: "auto" }, answer.text);
  const box = make("textarea", { dir: "auto", rows: "6", "aria-label": `Your version of answer ${number}` });
  box.addEventListener("input", () => {
    said(item()).edits[answer.candidate_id] = box.value;
    save();
  });
  const edit = make("details", { class: "edit", hidden: "" }, make("summary", {}, "Make it better (optional)"), box);
  return make("article", { class: "answer", "aria-label": `Answer ${number}` }, choose, text, edit);
}

function turn(message) {
  const names = { system: "Instructions to the model", user: "User", assistant: "Assistant" };
  return make("div", { class: "turn" }, make("b", {}, names[message.role] || message.role),
    make("div", { class: "text", dir: "auto" }, message.content));
}

function show() {
  const ended = state.at >= ask.items.length;
  $("group").hidden = ended;
  $("end").hidden = !ended;
  $("back").disabled = state.at === 0;
  $("next").disabled = ended;
  $("help").open = state.at === 0; // read once; further on it would only push the question down
  $("where").textContent = ended ? "" : `Question ${state.at + 1} of ${ask.items.length}`;
  if (ended) {
    const open = ask.items.length - answered();
    $("open").textContent = open ? `${open} left open.` : "Every question has an answer.";
    $("to-open").hidden = !open;
    return;
  }
  const before = item().messages.slice(0, -1);
  $("before").hidden = !before.length;
  $("before").open = false;
  $("turns").replaceChildren(...before.map(turn));
  $("question").textContent = item().messages.at(-1).content;
  $("answers").replaceChildren(...item().answers.map((answer, i) => card(answer, i + 1)));
  since = document.hidden ? 0 : performance.now();
  mark();
}

function mark() {
  const entry = said(item()) || { verdict: "", chosen: null, edits: {} };
  for (const [i, node] of [...$("answers").children].entries()) {
    const answer = item().answers[i];
    const chosen = entry.verdict === "best" && entry.chosen === answer.candidate_id;
    node.classList.toggle("chosen", chosen);
    node.querySelector(".choose").setAttribute("aria-pressed", String(chosen));
    const edit = node.querySelector(".edit");
    edit.hidden = !chosen;
    const draft = entry.edits[answer.candidate_id];
    edit.open = chosen && draft !== undefined && draft !== answer.text;
    edit.querySelector("textarea").value = draft ?? answer.text;
  }
  $("none").setAttribute("aria-pressed", String(entry.verdict === "none"));
  $("equal").setAttribute("aria-pressed", String(entry.verdict === "equal"));
}

function records() {
  const annotator = state.annotator.trim() || "anonymous";
  const found = [];
  for (const one of ask.items) {
    const entry = said(one);
    if (!entry || !entry.verdict) continue;
    const shared = { prompt_id: one.prompt_id, messages: one.messages, annotator };
    found.push({
      kind: "best_of", ...shared, answers: one.answers, chosen: entry.chosen, verdict: entry.verdict,
      seconds: Math.round(entry.seconds * 10) / 10, order: one.answers.map((answer) => answer.candidate_id),
    });
    const best = one.answers.find((answer) => answer.candidate_id === entry.chosen);
    const edited = best && entry.edits[best.candidate_id];
    if (edited && edited.trim() && edited !== best.text)
      found.push({ kind: "edit", ...shared, candidate_id: best.candidate_id, original: best.text, edited });
  }
  return found;
}

function download() {
  const lines = records().map((record) => JSON.stringify(record) + "\n");
  const link = make("a", {
    href: URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" })),
    download: `answers-${(state.annotator.trim() || "anonymous").replace(/[^\w-]+/g, "-")}-${ask.page.slice(0, 8)}.jsonl`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function pseudonym() {
  const words = ["amber", "brisk", "calm", "dusky", "eager", "fern", "golden", "hazel", "ivory", "jolly", "keen", "lunar",
    "mossy", "noble", "opal", "quiet"];
  const animals = ["badger", "crane", "dolphin", "egret", "falcon", "gecko", "heron", "ibex", "jackal", "koala", "lynx",
    "marten", "newt", "otter", "puffin", "raven"];
  const [a, b, c] = crypto.getRandomValues(new Uint8Array(3));
  return `${words[a % 16]}-${animals[b % 16]}-${10 + (c % 90)}`;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea")) return;
  const number = Number(event.key);
  if (event.key === "ArrowRight") move(state.at + 1);
  else if (event.key === "ArrowLeft") move(state.at - 1);
  else if (event.key === "0") decide("none", null);
  else if (event.key === "=") decide("equal", null);
  else if (number >= 1 && state.at < ask.items.length && number <= item().answers.length)
    decide("best", item().answers[number - 1].candidate_id);
  else return;
  event.preventDefault();
}

load();
const suggested = pseudonym();
$("annotator").value = state.annotator;
$("suggest").textContent = `Use ${suggested}`;
const named = (name) => { state.annotator = name; save(); };
$("annotator").addEventListener("input", () => named($("annotator").value));
$("suggest").addEventListener("click", () => { $("annotator").value = suggested; named(suggested); });
$("none").addEventListener("click", () => decide("none", null));
$("equal").addEventListener("click", () => decide("equal", null));
$("back").addEventListener("click", () => move(state.at - 1));
$("next").addEventListener("click", () => move(state.at + 1));
$("to-open").addEventListener("click", () => move(ask.items.findIndex((one) => !said(one) || !said(one).verdict)));
for (const id of ["download", "download-end"]) $(id).addEventListener("click", download);
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", spend);
window.addEventListener("beforeunload", (event) => { if (!stored && answered()) event.preventDefault(); });
show();
progress();
document.body.classList.add("ready");
