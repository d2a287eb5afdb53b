"use strict";
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"];
const at = (id) => document.getElementById(id);
let model = null;
let last = null;
let asked = 0;

function say(text, bad = false) {
  at("message").textContent = text;
  at("message").className = bad ? "bad" : "";
}

function colourOf(label) {
  let sum = 0;
  for (const letter of label) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  const known = model.names.indexOf(label);
  return COLOURS[(known < 0 ? sum : known) % COLOURS.length];
}

function shown() {
  const least = model.kind === "detector" ? Number(at("slider").value) : 0;
  return last.found.filter((one) => one.score >= least);
}

function draw() {
  at("least").textContent = Number(at("slider").value).toFixed(2);
  if (!last) return;
  const found = shown();
  const svg = at("boxes");
  svg.setAttribute("viewBox", `0 0 ${last.width} ${last.height}`);
  svg.replaceChildren(...found.filter((one) => one.box).map((one) => {
    const [x1, y1, x2, y2] = one.box;
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
    for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value);
    rect.setAttribute("stroke", colourOf(one.label));
    return rect;
  }));
  at("found").replaceChildren(...found.map((one) => {
    const row = document.createElement("li");
    for (const [name, text] of [["colour", ""], ["label", one.label], ["score", one.score.toFixed(2)]]) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      row.append(part);
    }
    row.firstChild.style.background = colourOf(one.label);
    return row;
  }));
  const boxes = model.kind === "detector" ? `: ${found.length} of ${last.found.length} boxes shown` : "";
  say(last.file + boxes);
}

async function look(file) {
  if (!file || !model) return;
  const turn = ++asked;
  if (file.size > model.limit) {
    say(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; up to ${(model.limit / 1e6).toFixed(0)} MB are taken`, true);
    return;
  }
  say(`looking at ${file.name} ...`);
  let answer;
  try {
    const reply = await fetch("look", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    answer = await reply.json();
  } catch (error) {
    answer = { error: "the program that serves this page does not answer; is it still running?" };
  }
  if (turn !== asked) return; // a later picture was dropped meanwhile
  if (answer.error) {
    say(`${file.name}: ${answer.error}`, true);
    return;
  }
  last = { ...answer, file: file.name };
  at("picture").src = answer.picture;
  at("time").textContent = `${answer.milliseconds.toFixed(1)} ms, ${answer.width} x ${answer.height} pixels`;
  at("result").hidden = false;
  draw();
}

async function start() {
  try {
    model = await (await fetch("model")).json();
  } catch (error) {
    say("the program that serves this page does not answer; is it still running?", true);
    return;
  }
  document.title = `${model.name} - rebnn demo`;
  at("name").textContent = model.name;
  at("facts").textContent = model.facts;
  at("threshold").hidden = model.kind !== "detector";
}

const drop = at("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") look(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => look(event.clipboardData.files[0]));
at("file").addEventListener("change", (event) => {
  look(event.target.files[0]);
  event.target.value = ""; // the same file again is a change, too
});
at("slider").addEventListener("input", draw);
start();
