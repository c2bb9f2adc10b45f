// The model that is served decides between a text and a conversation; the address holds the settings.

const OF_URL = ["template", "steps", "temperature", "order", "seed", "tokens"];

function talks() { return document.body.dataset.mode === "talk"; }

function show(mode) {
  document.body.dataset.mode = mode;
  $("mode").textContent = talks() ? "Text with gaps" : "Conversation";
  $("settings").open = !talks();
  $("write").textContent = talks() ? "Send" : "Write";
}

function submit() {
  keep();
  if (talks()) send(); else write();
}

// A copy of the address is a way back to what it holds.
function address() {
  const found = new URL(location.href);
  for (const id of OF_URL) {
    const value = id === "template" && talks() ? "" : $(id).value;
    if (value) found.searchParams.set(id, value); else found.searchParams.delete(id);
  }
  return found;
}
function keep() { history.replaceState(null, "", address()); }

async function meet() {
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    if (!response.ok) throw await refusal(response);
    const served = (await response.json()).data[0];
    $("error").textContent = "";
    $("steps").placeholder = served.steps;
    $("temperature").placeholder = served.temperature;
    $("orderbox").hidden = !served.unmasks;
    $("mode").hidden = !served.chat;
    show(served.chat && !new URLSearchParams(location.search).has("template") ? "talk" : "text");
    $("model").textContent = `${served.id}: ${served.architecture}, ${served.length} tokens`;
  } catch (error) { $("error").textContent = error.message; }
}

const asked = new URLSearchParams(location.search);
for (const id of OF_URL) {
  if (asked.has(id)) $(id).value = asked.get(id);
  $(id).addEventListener("change", keep);
}
$("form").addEventListener("submit", event => { event.preventDefault(); submit(); });
$("mode").addEventListener("click", () => {
  startAnew();
  show(talks() ? "text" : "talk");
  $("text").replaceChildren();
  $(talks() ? "message" : "template").focus();
});
$("key").addEventListener("change", meet);
document.addEventListener("keydown", event => {
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key === "Enter") { event.preventDefault(); submit(); }
  if (command && event.key.toLowerCase() === "g" && !talks()) { event.preventDefault(); makeGap(); }
  if (event.key === "Escape" && run && !$("pause").disabled) $("pause").click();
});
meet();
