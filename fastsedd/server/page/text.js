// A text with gaps.

async function write() {
  const own = begin($("text"), false);
  $("write").textContent = "Write again";
  if (await emerge(own, "/v1/fill", { template: $("template").value }))
    $("spoken").textContent = `The text is done: ${own.text}`;
}

function makeGap() {
  const box = $("template"), { selectionStart: from, selectionEnd: to, value } = box;
  const words = value.slice(from, to);
  const open = value.includes("{{}}");
  const count = Math.max(1, Math.round(words.length / 3));
  const gap = words || open ? `{{${count}}}` : "{{}}";
  box.setRangeText(gap, from, to, "end");
  box.focus();
  keep();
}

$("gap").addEventListener("click", makeGap);
$("share").addEventListener("click", () => {
  if (run && run.seed) $("seed").value = run.seed;
  keep();
  put(location.href, "The link is copied.");
});
