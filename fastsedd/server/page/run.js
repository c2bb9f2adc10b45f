// One text on its way out of noise, drawn into an element; and the last one, which the slider and the buttons move.

const NOISE = "·", FADE = 1600;  // ms, as in the style

let run = null, paused = false, following = true;

// states[k] is what changed at step k, and marks[k] its numbers: any state is made by adding up changes.
// answers : the given tokens, a conversation so far, are not shown
class Run {
  constructor(box, answers) {
    Object.assign(this, { box, answers, length: 0, states: [], marks: [], times: [], given: new Set(), text: "", seed: "",
      drawing: false, done: false, began: performance.now(), controller: new AbortController() });
  }

  get last() { return this.states.length - 1; }

  cells(upTo) {
    const found = Array.from({ length: this.length }, () => ({ text: null, at: -1, sure: null }));
    for (let k = 0; k <= upTo; k++) {
      const told = this.marks[k].confidence || [];
      this.states[k].forEach(([position, text], i) => {
        found[position] = { text: text === "" ? null : text, at: k, sure: told[i] ?? null };
      });
    }
    return found;
  }

  // Neighbours that look the same, as one part each. still : one step is looked at, and its own changes are marked;
  // else each change fades by its age.
  parts(k, still) {
    const found = [], now = performance.now();
    let room = this.answers && this.done && k === this.last ? this.text.length : Infinity;  // an answer ends at its end
    this.cells(k).forEach((cell, position) => {
      const given = this.given.has(position);
      if (given && this.answers) return;
      const age = now - this.times[cell.at];
      const isFresh = cell.at > 0 && (still ? cell.at === k : age < FADE);
      const kind = cell.text === null ? "noise" : given ? "given" : isFresh ? "fresh" : "";
      const text = (cell.text === null ? NOISE : cell.text).slice(0, room), last = found[found.length - 1];
      room -= text.length;
      const at = kind === "fresh" ? cell.at : 0, sure = kind === "fresh" ? cell.sure : null;
      if (last && last.kind === kind && last.at === at && last.sure === sure) last.text += text;
      else found.push({ kind, at, age, sure, text });
    });
    return found;
  }

  draw(k, still) {
    this.box.classList.toggle("still", still);
    const parts = this.parts(k, still);
    const ended = this.answers && this.done && k === this.last;
    if (ended && parts.map(each => each.text).join("") !== this.text) this.box.textContent = this.text;
    else this.box.replaceChildren(...parts.map(part => element(part, still)));
    this.tell(k, still);
  }

  tell(k, still) {
    const mark = this.marks[k], told = (mark.confidence || []).filter(each => each !== null);
    const mean = Math.round(100 * told.reduce((sum, each) => sum + each, 0) / told.length);
    $("where").textContent = `step ${mark.step} of ${mark.steps}`;
    $("masked").textContent = `${mark.masked} of ${this.length - (this.answers ? this.given.size : 0)} masked`;
    $("sure").textContent = still && told.length ? `${told.length} new, ${mean} % sure` : "";
    $("slider").setAttribute("aria-valuetext", [$("where"), $("sure")].map(each => each.textContent).join(" "));
  }

  show() {
    $("slider").value = $("slider").max;
    this.draw(this.last, false);
  }

  drawSoon() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      if (run === this && following) this.show();
    });
  }

  take(state) {
    this.length = state.length;
    if (state.step === 0) for (const [position] of state.changed) this.given.add(position);
    this.states.push(state.changed);
    this.marks.push(state);
    this.times.push(performance.now());
    $("slider").disabled = false;
    $("slider").max = this.last;
    this.drawSoon();
    const seconds = (performance.now() - this.began) / 1000, written = this.length - this.given.size - state.masked;
    $("speed").textContent = state.step ? `${(written / seconds).toFixed(0)} tokens/s` : "";
  }
}

function element({ kind, age, sure, text }, still) {
  if (!kind) return document.createTextNode(text);
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  if (sure !== null) {
    span.style.setProperty("--p", `${Math.round(100 * sure)}%`);
    span.title = `${Math.round(100 * sure)} % sure`;
  }
  if (kind === "fresh" && !still) span.style.animationDelay = `-${Math.round(age)}ms`;
  return span;
}

// Another run takes the place of the last one, which ends.
function begin(box, answers) {
  if (run) run.controller.abort();
  run = new Run(box, answers);
  paused = false; following = true;
  $("error").textContent = $("spoken").textContent = "";
  $("pause").disabled = false; $("copy").disabled = true;
  showPause();
  $("slider").disabled = true;
  $("slider").value = $("slider").max = 0;
  for (const id of ["where", "masked", "sure", "speed", "used"]) $(id).textContent = "";
  return run;
}

function settings() {
  const body = { stream: true, stream_options: { include_confidence: true } };
  if ($("steps").value) body.steps = Number($("steps").value);
  if ($("temperature").value) body.temperature = Number($("temperature").value);
  if ($("order").value) body.order = $("order").value;
  return body;
}

// Ask for a text, and show it as it comes; true once it is whole. An error is told, unless another run has begun.
async function emerge(own, path, body) {
  const seed = $("seed").value.trim();
  try {
    if (!/^\d*$/.test(seed)) throw new Error("seed: allowed: digits, or nothing for a random one");
    const response = await fetch(path, {
      method: "POST", headers: headers(), body: asJson({ ...body, ...settings() }, seed), signal: own.controller.signal });
    if (!response.ok) throw await refusal(response);
    $("spoken").textContent = "Writing.";
    for await (const data of events(response)) {
      if (run !== own) return false;
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      own.seed = (/"seed":(\d+)/.exec(data) || [])[1] || own.seed;
      if (piece.diffusion) own.take(piece.diffusion);
      else if (piece.choices.length) own.text = piece.choices[0].text ?? piece.choices[0].delta.content;
    }
    own.done = true;
    if (following) own.show();
    $("used").textContent = `seed ${own.seed}`;
    $("copy").disabled = false;
  } catch (error) {
    if (run === own && error.name !== "AbortError") $("error").textContent = error.message;
  }
  if (run === own && !(own.done && paused)) $("pause").disabled = true;
  return own.done;
}

function showPause() {
  $("pause").textContent = paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(paused));
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  following = !paused;
  showPause();
  if (!paused && run.states.length) run.show();
  if (!paused && run.done) $("pause").disabled = true;
});
$("slider").addEventListener("input", () => {
  const at = Number($("slider").value);
  following = at === run.last;
  run.draw(at, true);
});

async function put(text, words) {
  try { await navigator.clipboard.writeText(text); $("spoken").textContent = words; $("used").textContent = words; }
  catch { $("error").textContent = "the browser does not let a page copy: the address bar has the same link"; }
}
$("copy").addEventListener("click", () => put(run.text, "Copied."));
