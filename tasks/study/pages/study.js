// Saves every click as it is made, plays the clips one after the other, and lets keys 1 to 3 answer. Without it the page is a
// plain form with a player for each clip.
"use strict";

const PAGE = document.body.dataset.page;
const FORM = document.getElementById("judging");
const OPENED = performance.now();

// Saving: clicks are sent one after the other, and again until the server says that each is on its disk.

const waiting = [];
let sending = false, leaving = false;

function say(text, bad = false) {
  const state = document.getElementById("state");
  if (state.textContent !== text) state.textContent = text;
  state.classList.toggle("state-bad", bad);
}

function clickName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");
}

async function post(path, body) {
  return fetch(PAGE + path, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), keepalive: true,
  });
}

async function sendAll() {
  if (sending) return;
  sending = true;
  for (let tries = 0; waiting.length;) {
    say("Saving …");
    let answer = null;
    try { answer = await post("/judge", waiting[0]); } catch { /* no connection: again below */ }
    if (answer?.ok && !answer.redirected) {
      waiting.shift();
      tries = 0;
    } else if (answer && (answer.redirected || (answer.status >= 400 && answer.status < 500))) {
      waiting.length = 0;  // the page is not what the study is at any more
      location.reload();
      break;
    } else {
      say("Not saved yet: no connection. Trying again …", true);
      await new Promise((go) => setTimeout(go, Math.min(8000, 500 * 2 ** tries++)));
    }
  }
  sending = false;
  const left = unanswered().length;
  say(left ? `Saved. ${left} ${left === 1 ? "question" : "questions"} left here.` : "Saved. All is answered here.");
  if (leaving) FORM.submit();
}

function unanswered() {
  return groups().filter((group) => !group.querySelector("input:checked"));
}

function groups() {
  return Array.from(FORM.querySelectorAll("fieldset.question"));
}

FORM.addEventListener("change", (event) => {
  const group = event.target.closest("fieldset.question");
  if (!group) return;
  group.classList.remove("open");
  group.querySelector("legend strong")?.remove();
  for (const input of group.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  waiting.push({
    reply: Number(group.dataset.reply), question: group.dataset.question, value: Number(event.target.value),
    click: clickName(), after_ms: Math.round(performance.now() - OPENED),
  });
  sendAll();
});

FORM.addEventListener("submit", (event) => {
  if (!waiting.length) return;
  event.preventDefault();  // first what was clicked, then the form
  leaving = true;
  sendAll();
});

// Each answer was sent as it was clicked: the form itself sends none, since another tab may have changed one meanwhile.
FORM.addEventListener("formdata", (event) => {
  for (const name of [...event.formData.keys()]) event.formData.delete(name);
});

window.addEventListener("beforeunload", (event) => {
  if (waiting.length && !leaving) event.preventDefault();
});

// Another tab may have answered meanwhile.
document.addEventListener("visibilitychange", refresh);
window.addEventListener("pageshow", (event) => { if (event.persisted) refresh(); });

async function refresh() {
  if (document.visibilityState !== "visible" || waiting.length) return;
  try {
    const answer = await fetch(PAGE + "/answers");
    if (!answer.ok || answer.redirected) return;
    for (const [name, value] of Object.entries(await answer.json())) {
      const input = FORM.querySelector(`input[name="${name}"][value="${value}"]`);
      if (input) input.checked = true;
    }
  } catch { /* no connection: what is shown stays */ }
}

// Keys 1 to 3 answer the question that has the focus, or the first open one, and go on to the next.

document.addEventListener("keydown", (event) => {
  if (!/^[1-3]$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("video, input[type=text], textarea")) return;
  const group = document.activeElement?.closest?.("fieldset.question") ?? unanswered()[0];
  const input = group?.querySelector(`input[value="${event.key}"]`);
  if (!input) return;
  event.preventDefault();
  const before = input.checked;
  input.checked = true;
  if (!before) input.dispatchEvent(new Event("change", { bubbles: true }));
  const all = groups(), next = all[all.indexOf(group) + 1];
  const target = next?.querySelector("input:checked") ?? next?.querySelector("input") ?? FORM.querySelector("button[type=submit]");
  target.focus();
  (next ?? target).scrollIntoView({ block: "nearest" });
});

// The film: clips in order, each with its words as captions; one that cannot be played is noted and passed over.

const FILMED = document.body.dataset.filmed.split(" ").filter(Boolean).map(Number);

if (FILMED.length) {
  const film = document.getElementById("film"), state = document.getElementById("film-state");
  const play = document.getElementById("play");
  const failed = new Set();
  let at = -1, begun = false;
  document.querySelector(".player").hidden = false;

  const note = (turn, kind, detail = "") => post("/event", { turn, kind, detail }).catch(() => {});

  function show(place, go) {
    at = place;
    const turn = FILMED[at];
    film.replaceChildren();
    const words = document.createElement("track");
    Object.assign(words, { kind: "captions", srclang: "en", label: "What is said", src: `${PAGE}/captions/${turn}` });
    film.append(words);
    film.src = `${PAGE}/clip/${turn}`;
    for (const line of document.querySelectorAll("#turns li")) {
      line.classList.toggle("playing", go && Number(line.dataset.turn) === turn);
      if (go && Number(line.dataset.turn) === turn) {
        const list = document.getElementById("turns");
        list.scrollTop = line.offsetTop - list.offsetTop - list.clientHeight / 3;
      }
    }
    if (go) film.play().catch(() => {});
  }

  function onwards() {
    if (at + 1 < FILMED.length) {
      show(at + 1, true);
    } else {
      for (const line of document.querySelectorAll("#turns li.playing")) line.classList.remove("playing");
      const lost = failed.size ? ` ${failed.size} of ${FILMED.length} clips could not be played: please read what is said there.` : "";
      state.textContent = "That was the whole conversation." + lost;
      play.textContent = "Play it again";
      begun = false;
    }
  }

  play.addEventListener("click", () => { begun = true; state.textContent = ""; show(0, true); });
  film.addEventListener("play", () => { begun = true; });
  film.addEventListener("ended", () => { note(FILMED[at], "ended"); onwards(); });
  film.addEventListener("stalled", () => { if (film.readyState < 3 && begun) note(FILMED[at], "stalled"); });
  film.addEventListener("error", () => {
    if (!film.error) return;
    const turn = FILMED[at];
    if (!failed.has(turn)) note(turn, "error", `${film.error.code} ${film.error.message}`.slice(0, 200));
    failed.add(turn);
    state.textContent = "A clip cannot be played here: please read what is said. We have noted it.";
    const line = document.querySelector(`#turns li[data-turn="${turn}"] .who`);
    if (line && !line.querySelector(".lost")) {
      line.insertAdjacentHTML("beforeend", ' <span class="lost soft">(cannot be played)</span>');
    }
    if (begun) onwards();
  });
  show(0, false);
}
