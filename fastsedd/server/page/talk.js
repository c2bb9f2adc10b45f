// A conversation. An exchange that was stopped, or refused, is not told to the model, and its message is given back.

let told = [];  // messages, of whole exchanges

function message(role, words) {
  const box = document.createElement("article"), name = document.createElement("h2"), text = document.createElement("div");
  box.className = `message ${role}`;
  name.textContent = role === "user" ? "You" : "Model";
  text.className = "emerging";
  text.textContent = words;
  box.append(name, text);
  $("talk").append(box);
  return text;
}

function drop(text, why) {
  const note = document.createElement("span");
  note.textContent = ` ${why}`;
  text.parentElement.classList.add("dropped");
  text.previousElementSibling.append(note);
}

async function send() {
  const words = $("message").value.trim();
  if (!words || $("write").disabled) return;
  const asked = { role: "user", content: words }, mine = message("user", words), answer = message("assistant", "");
  const own = begin(answer, true), body = { messages: [...told, asked] };
  if ($("tokens").value) body.max_tokens = Number($("tokens").value);
  $("message").value = "";
  $("write").disabled = true;
  $("stop").disabled = false;
  answer.parentElement.scrollIntoView({ block: "nearest" });
  const whole = await emerge(own, "/v1/chat/completions", body);
  if (run !== own) return;
  $("write").disabled = false;
  $("stop").disabled = true;
  if (whole) {
    told.push(asked, { role: "assistant", content: own.text });
    $("spoken").textContent = `The model: ${own.text}`;
    return;
  }
  drop(mine, "not told");
  if (own.states.length) drop(answer, "stopped"); else answer.parentElement.remove();
  if (!$("message").value) $("message").value = words;
  $("message").focus();
}

function stop() {
  if (!run) return;
  run.controller.abort();
  $("spoken").textContent = "Stopped.";
}

function startAnew() {
  if (run) run.controller.abort();
  run = null;
  told = [];
  $("talk").replaceChildren();
  $("error").textContent = "";
  $("write").disabled = false;
  for (const id of ["stop", "pause", "copy", "slider"]) $(id).disabled = true;
  for (const id of ["where", "masked", "sure", "speed", "used"]) $(id).textContent = "";
  $("spoken").textContent = "A new conversation.";
  $("message").focus();
}

$("stop").addEventListener("click", stop);
$("anew").addEventListener("click", startAnew);
$("message").addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
