"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const sides = [];
let running = 0;

function make(name, given = {}, ...children) {
  const node = Object.assign(document.createElement(name), given);
  node.append(...children);
  return node;
}

/* A browser may refuse to keep anything; then it is kept for as long as the page is open. */
const memory = {};
function kept(name, value) {
  try {
    if (value !== undefined) sessionStorage.setItem(name, value);
    return sessionStorage.getItem(name) || "";
  } catch {
    if (value !== undefined) memory[name] = value;
    return memory[name] || "";
  }
}

const random = () => [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16).padStart(2, "0")).join("");
const user = kept("user") || kept("user", `page-${random()}`);

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function call(path, body, session) {
  const headers = { "Content-Type": "application/json", "x-user-id": user, "x-session-id": session };
  if (data.keyed) headers.Authorization = `Bearer ${$("key").value}`;
  const reply = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!reply.ok) {
    const said = await reply.json().catch(() => ({}));
    throw new Error((said.error && said.error.message) || `The server said ${reply.status}.`);
  }
  return reply;
}

/* Calls `each` with every piece of text of a streamed answer; an answer without its end is an error. */
async function pieces(reply, each) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data:")) continue;
      const said = event.slice(5).trim();
      if (said === "[DONE]") { ended = true; continue; }
      const choice = (JSON.parse(said).choices || [])[0];
      if (choice && choice.delta && choice.delta.content) each(choice.delta.content);
    }
  }
  if (!ended) throw new Error("The answer broke off.");
}

async function react(turn, what, note) {
  try {
    await call("/v1/feedback", { request_id: turn.request, ...what }, turn.side.session);
    turn.note.textContent = note;
    problem("");
    return true;
  } catch (error) {
    problem(error.message);
    return false;
  }
}

function thumbs(turn) {
  return ["up", "down"].map((thumb) => {
    const button = make("button", { type: "button", className: thumb, textContent: thumb === "up" ? "Good" : "Poor" });
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", async () => {
      if (!(await react(turn, { thumb }, "Noted."))) return;
      for (const other of turn.bar.querySelectorAll(".up, .down"))
        other.setAttribute("aria-pressed", String(other === button));
    });
    return button;
  });
}

function editor(turn) {
  const box = make("textarea", { rows: 4, value: turn.text });
  box.setAttribute("aria-label", "A better answer");
  const save = make("button", { type: "button", className: "main save", textContent: "Save the better answer" });
  const place = make("div", { className: "edit" }, box, save);
  save.addEventListener("click", async () => {
    const edit = box.value;
    if (!edit.trim() || edit === turn.text) return problem("Change the answer before you save it.");
    if (!(await react(turn, { edit }, "Your answer is kept."))) return;
    turn.text = turn.answer.textContent = edit;
    turn.message.content = edit;
    place.remove();
  });
  return place;
}

function tools(turn) {
  const edit = make("button", { type: "button", className: "rewrite", textContent: "Edit" });
  edit.addEventListener("click", () => {
    const open = turn.place.querySelector(".edit");
    if (open) return open.remove();
    turn.bar.after(editor(turn));
    turn.place.querySelector(".edit textarea").focus();
  });
  const again = make("button", { type: "button", className: "again", textContent: "Try again" });
  again.addEventListener("click", async () => {
    if (running || turn !== turn.side.last) return;
    if (!(await react(turn, { regenerate: true }, "Asked again."))) return;
    turn.side.messages.pop();
    answer(turn.side);
  });
  turn.note = make("span", { className: "soft" });
  turn.note.setAttribute("role", "status");
  turn.bar = make("div", { className: "said" }, ...thumbs(turn), edit, again, turn.note);
  turn.place.append(turn.bar);
}

async function answer(side) {
  const node = make("div", { className: "answer text" });
  node.dir = "auto";
  const turn = { side, text: "", answer: node, place: make("div", { className: "turn" }, node) };
  side.log.append(turn.place);
  busy(1);
  try {
    const body = { model: side.model.value, messages: side.messages, stream: true };
    const reply = await call("/v1/chat/completions", body, side.session);
    turn.request = reply.headers.get("x-request-id");
    await pieces(reply, (piece) => { turn.text += piece; node.textContent = turn.text; });
    turn.message = { role: "assistant", content: turn.text };
    side.messages.push(turn.message);
    if (side.last && side.last.bar) side.last.bar.querySelector(".again").disabled = true;
    side.last = turn;
    tools(turn);
    problem("");
  } catch (error) {
    side.messages = side.messages.slice(0, side.messages.findLastIndex((m) => m.role === "assistant") + 1);
    turn.place.append(make("p", { className: "warn", textContent: error.message }));
    problem(error.message);
  } finally {
    busy(-1);
  }
}

function busy(change) {
  running += change;
  $("send").disabled = running > 0;
}

function side(version) {
  const model = make("select", {}, ...data.versions.map((name) => make("option", { value: name, textContent: name })));
  model.setAttribute("aria-label", "Version");
  model.value = version;
  const log = make("div", { className: "log" });
  const made = { model, log, messages: [], session: random(), last: null };
  $("sides").append(make("section", { className: "side" }, make("div", { className: "head" }, model), log));
  return made;
}

function send(event) {
  event.preventDefault();
  const content = $("question").value.trim();
  if (!content || running) return;
  $("question").value = "";
  for (const one of sides) {
    one.messages.push({ role: "user", content });
    const question = make("div", { className: "question text", textContent: content });
    question.dir = "auto";
    one.log.append(question);
    answer(one);
  }
}

for (const version of data.versions.slice(0, 2)) sides.push(side(version));
$("who").hidden = !data.keyed;
$("key").value = kept("key");
$("key").addEventListener("input", () => kept("key", $("key").value));
$("ask").addEventListener("submit", send);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
document.body.classList.add("ready");
