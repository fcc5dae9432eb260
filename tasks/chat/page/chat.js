// The chat's page. What was said lies on the server: the page shows what it is told, and asks again from where it was
// after a lost connection. The conversation's id stands behind the # of the address, which no server log sees.
"use strict";
const by = (id) => document.getElementById(id);
const made = (tag, name, text) => {
  const part = document.createElement(tag);
  if (name) part.className = name;
  if (text !== undefined) part.textContent = text;
  return part;
};
let about, events, seen = 0, turns = [], busy = false, clip = null, recorder = null;
let sending = null;  // what was sent and is not told of yet
let restored = null;  // what was put back into the box because the connection was lost

async function asked(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server cannot be reached; is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(answer.error || `status ${response.status}`), { status: response.status });
  return answer;
}
const posted = (path, body) => asked(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}),
});
const here = (path) => `conversations/${location.hash.slice(1)}/${path}`;

function problem(text) {
  by("problem").textContent = text || "";
  by("problem").hidden = !text;
}

// Beginning and listening -----------------------------------------------------------------------------------

async function start() {
  about = await asked("about");
  by("run").textContent = `run ${about.run}`;
  for (const [name, title] of Object.entries(about.rungs)) {
    by("rung").append(new Option(`${name}: ${title}`, name));
    by("beside").append(new Option(`${name}: ${title}`, name));
  }
  by("beside").prepend(new Option("none", "", true, true));
  by("notes").append(...about.notes.map((note) => made("li", "", note)));
  if (!navigator.mediaDevices) {
    by("film").disabled = by("voice").disabled = true;
    by("film").title = by("voice").title = "The browser gives camera and microphone to pages of this machine and of https only";
  }
  if (location.hash.length < 2) await begin(); else listen();
}

async function begin() {
  location.hash = (await posted("conversations")).id;
  sending = restored = null;
  seen = 0; turns = []; by("talk").replaceChildren(); by("recalled").hidden = true; by("memory").textContent = "";
  showBusy();
  listen();
  by("text").focus();
}

function listen() {
  events?.close();
  by("save").href = here("saved");
  events = new EventSource(here(`events?after=${seen}`));
  events.onopen = () => { by("connection").hidden = true; };
  events.onmessage = (message) => told(JSON.parse(message.data));
  events.onerror = async () => {
    by("connection").hidden = false;
    if (events.readyState !== EventSource.CLOSED) return;  // the browser tries again by itself
    try {
      await asked(here("saved"));
      setTimeout(listen, 1000);
    } catch (error) {
      if (error.status === 404) { by("connection").hidden = true; problem(error.message); }
      else setTimeout(listen, 1500);
    }
  };
}

function told(change) {
  seen = change.version;
  by("rung").value = change.rung;
  by("beside").value = change.beside ?? "";
  const before = turns.length;
  for (const [number, turn] of Object.entries(change.turns)) show(Number(number), turn);
  if (turns.length > before) arrived();
  showBusy();
  const size = turns.findLast((turn) => turn.history)?.history;
  if (size) by("memory").replaceChildren(made("span", "dots", "●".repeat(Math.min(size.shown, 64))), ` ${sized(size)}`);
}
const ended = (turn) => turn.failed !== null || turn.history !== null;

function arrived() {  // what was sent was said, also where the connection was lost before this was known
  sending = null;
  if (restored !== null && by("text").value === restored) by("text").value = "";
  restored = null;
}

function showBusy() {
  busy = sending !== null || (turns.length > 0 && !ended(turns.at(-1)));
  by("talk").setAttribute("aria-busy", busy);
  by("send").hidden = busy; by("stop").hidden = !busy;
}

function sized(size) {
  const utterances = `${size.shown} utterance${size.shown === 1 ? "" : "s"}`;
  if (size.form === "text") return `${utterances} as text: ${size.positions} tokens`;
  const older = size.utterances - size.shown;
  return `${utterances} in ${size.positions} embeddings, for ${size.as_text} tokens of text` +
    (older ? `; ${older} older ones in the state alone` : "");
}

// Showing ---------------------------------------------------------------------------------------------------

function show(number, turn) {
  turns[number] = turn;
  const parts = [made("div", "bubble person", turn.text)];
  if (turn.clip) parts.push(clipped(turn.clip));
  if (turn.emotion) parts.push(felt(turn.emotion));
  const answers = made("div", turn.answers.length > 1 ? "answers two" : "answers");
  for (const answer of turn.answers) {
    const bubble = made("div", "bubble");
    bubble.append(made("span", "who", answer.rung + ({ length: " · cut at its limit", stopped: " · stopped" }[answer.ended] ?? "")));
    bubble.append(made("span", answer.ended === null ? "waiting" : "", answer.text || (answer.ended ? "(said nothing)" : "")));
    answers.append(bubble);
  }
  parts.push(answers, ...turn.notes.map((note) => made("div", "small", note)));
  if (turn.failed) parts.push(made("div", "problem", `No answer: ${turn.failed}`));
  place(number, parts);
}

function place(number, parts) {
  const at = by("talk"), down = by("talk").parentElement;
  const follows = down.scrollHeight - down.scrollTop - down.clientHeight < 120;
  while (at.children.length <= number) at.append(made("article", "turn"));
  at.children[number].replaceChildren(...parts);
  if (follows) down.scrollTop = down.scrollHeight;
}

function showSending(text) {  // where the turn will stand; its clip and the prompt are read before anything is told of it
  const parts = [made("div", "bubble person", text)], answers = made("div", "answers"), bubble = made("div", "bubble");
  if (clip) parts.push(clipped(clip));
  bubble.append(made("span", "waiting"));
  answers.append(bubble);
  place(turns.length, [...parts, answers]);
}

const parted = (clip) => [clip.heard && "heard", clip.seen && "seen"].filter(Boolean).join(" and ");
const clipped = (clip) => made("div", "small", `clip of ${clip.seconds} s, ${parted(clip)}`);

function felt(emotion) {
  const list = made("dl", "felt");
  list.setAttribute("aria-label", "Recognised emotion");
  for (const [name, share] of Object.entries(emotion)) {
    const meter = made("div", "meter"), filled = made("div");
    filled.style.width = `${100 * share}%`;
    meter.append(filled);
    for (const [key, value] of Object.entries({ role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": share.toFixed(2) }))
      meter.setAttribute(key, value);
    const bar = made("dd");
    bar.append(meter);
    list.append(made("dt", "", name), bar, made("dd", "", share.toFixed(2)));
  }
  return list;
}

// Saying ----------------------------------------------------------------------------------------------------

by("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = by("text").value;
  if (busy || !text.trim()) return;
  const length = [...text].length;
  if (length > about.most_characters) {  // it stays in the box, to be made shorter
    problem(`the turn has ${length.toLocaleString("en")} characters; say it in at most ${
      about.most_characters.toLocaleString("en")}, or in several turns`);
    return;
  }
  problem();
  by("text").value = "";
  restored = null;
  const said = clip, mine = sending = {};
  showSending(text.trim());
  showBusy();
  try {
    const answered = posted(here("turns"), { text, clip: said?.id ?? null });
    dropped();
    await answered;
  } catch (error) {
    const untold = sending === mine;
    if (untold) {
      sending = null;
      by("talk").children[turns.length].remove();
      showBusy();
    }
    if ((untold || error.status === 400) && !by("text").value) {
      by("text").value = text;
      if (!error.status) restored = text;
    }
    if (error.status) problem(error.message);
  }
});
by("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); by("say").requestSubmit(); }
});
by("stop").addEventListener("click", () => posted(here("stop")).catch((error) => problem(error.message)));
by("begin").addEventListener("click", () => begin().catch((error) => problem(error.message)));
for (const id of ["rung", "beside"]) by(id).addEventListener("change", () => {
  posted(here("rung"), { rung: by("rung").value, beside: by("beside").value || null }).catch((error) => problem(error.message));
});
by("recall").addEventListener("click", async () => {
  problem();
  try {
    const { lines } = await asked(here("recall"));
    by("recalled").querySelector("tbody").replaceChildren(...lines.map((pair) => {
      const row = made("tr");
      row.append(...pair.map((text) => made("td", "", text || "–")));
      return row;
    }));
    by("recalled").hidden = false;
    by("recalled").focus();
    by("recalled").scrollIntoView({ block: "end" });
  } catch (error) { problem(error.message); }
});
by("close").addEventListener("click", () => { by("recalled").hidden = true; by("text").focus(); });

// Clips -----------------------------------------------------------------------------------------------------

by("file").addEventListener("change", () => { if (by("file").files[0]) sent(by("file").files[0]); by("file").value = ""; });
by("drop").addEventListener("click", () => {
  if (recorder) { recorder.unwanted = true; recorder.stop(); }
  dropped();
});

function dropped() {
  clip = null;
  by("clip").hidden = true;
  if (by("view").src) URL.revokeObjectURL(by("view").src);
  by("view").removeAttribute("src");
  by("view").srcObject = null;
}

async function sent(blob) {
  problem();
  dropped();
  if (blob.size > about.most_bytes) { problem(`the clip has ${(blob.size / 1e6).toFixed(0)} MB; at most ${(about.most_bytes / 1e6).toFixed(0)} MB`); return; }
  by("clip").hidden = false;
  by("about-clip").textContent = "reading the clip …";
  by("view").src = URL.createObjectURL(blob);
  try {
    clip = await asked(here("clips"), { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: blob });
    by("about-clip").textContent = [`${clip.seconds} s, ${parted(clip)}; now type what is said`, ...clip.notes].join(". ");
    by("text").focus();
  } catch (error) { dropped(); problem(error.message); }
}

async function record(button, wanted) {
  if (recorder) { recorder.stop(); return; }
  problem();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) { problem(`camera or microphone cannot be used: ${error.message || error.name}`); return; }
  const parts = [], label = button.textContent;
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = (event) => parts.push(event.data);
  const limit = setTimeout(() => recorder?.stop(), (about.most_seconds - 1) * 1000);
  recorder.onstop = () => {
    clearTimeout(limit);
    stream.getTracks().forEach((track) => track.stop());
    const { mimeType: type, unwanted } = recorder;
    recorder = null;
    button.textContent = label;
    button.classList.remove("recording");
    by(button.id === "film" ? "voice" : "film").disabled = false;
    if (!unwanted) sent(new Blob(parts, { type }));
  };
  dropped();
  if (wanted.video) { by("clip").hidden = false; by("about-clip").textContent = "recording …"; by("view").srcObject = stream; by("view").play(); }
  button.textContent = "Stop recording";
  button.classList.add("recording");
  by(button.id === "film" ? "voice" : "film").disabled = true;
  recorder.start();
}
by("film").addEventListener("click", () => record(by("film"), { audio: true, video: { width: 640, height: 480 } }));
by("voice").addEventListener("click", () => record(by("voice"), { audio: true }));

start().catch((error) => problem(error.message));
