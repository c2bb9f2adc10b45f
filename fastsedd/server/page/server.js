"use strict";
const $ = id => document.getElementById(id);

// What is asked of the server, and what it answers: JSON, errors with their message, streams of events.

function headers() {
  const found = { "Content-Type": "application/json" };
  if ($("key").value) found.Authorization = `Bearer ${$("key").value}`;
  return found;
}

// A seed may need 64 bits, which a number of JavaScript has not: its digits are put into the JSON as they are.
function asJson(body, seed) {
  const text = JSON.stringify(body);
  return seed ? `${text.slice(0, -1)},"seed":${seed}}` : text;
}

async function refusal(response) {
  let words = `the server answers ${response.status}`;
  try { words = (await response.json()).error.message; } catch { /* no object */ }
  if (response.status === 401) {
    $("keyrow").hidden = false;
    $("key").focus();
    words = $("key").value ? "the API key is not one of this server's" : "this server asks for an API key";
  }
  return new Error(words);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const found = (rest + value).split("\n\n");
    rest = found.pop();
    for (const each of found) if (each.startsWith("data: ") && each !== "data: [DONE]") yield each.slice(6);
  }
}
