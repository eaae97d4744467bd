"""A page that draws a trace: one file without any other, for a browser without a network."""

from __future__ import annotations


def page(trace: str) -> str:
    """The page of this trace, JSON. Nothing in it can end the script that it is in."""
    return PAGE.replace("@TRACE@", trace.replace("<", "\\u003c"))


PAGE = r"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>Trace of a loop</title>
<style>
:root { color-scheme: light dark; }
body { font: 14px system-ui, sans-serif; margin: 1rem; }
canvas { width: 100%; display: block; touch-action: none; }
#detail { white-space: pre-wrap; font-family: ui-monospace, monospace; min-height: 6em; }
.histograms { display: flex; flex-wrap: wrap; gap: 2rem; }
.histograms figure { margin: 0; flex: 1 1 18rem; }
kbd { border: 1px solid; border-radius: 3px; padding: 0 3px; }
</style>
<h1>Trace of a loop</h1>
<p id="summary"></p>
<p><kbd>wheel</kbd> zooms, <kbd>drag</kbd> moves, <kbd>double click</kbd> shows everything;
<kbd>click</kbd> says what a span is.</p>
<canvas id="tracks"></canvas>
<p id="detail"></p>
<h2>Histograms, since the loop was made</h2>
<div class="histograms" id="histograms"></div>
<script type="application/json" id="trace">@TRACE@</script>
<script>
"use strict";
const trace = JSON.parse(document.getElementById("trace").textContent);
const COLOURS = ["#0969da", "#8c959f", "#bf3989", "#cf222e", "#1a7f37", "#9a6700"];
const ROW = 20, LEFT = 190, MOST_ROWS = 1500;
const names = new Map(), rows = new Map();
const loops = new Set(trace.traceEvents.map(each => each.pid)), open = new Map();
// A row for each track of each loop: a number, so that they can be sorted.
const rowOf = each => each.pid * 1e6 + each.tid;
for (const each of trace.traceEvents)
  if (each.ph === "M" && each.name === "thread_name")
    names.set(rowOf(each), (loops.size > 1 ? `loop ${each.pid}: ` : "") + each.args.name);
for (const each of trace.traceEvents) {
  if (each.ph === "M") continue;
  const key = `${each.pid} ${each.cat} ${each.id}`;
  if (each.ph === "e") {
    const span = open.get(key);
    open.delete(key);
    if (span) { span.ended = each.ts; span.event.dur = each.ts - span.began; continue; }
  }
  const span = {began: each.ts, ended: each.ts + (each.dur || 0), event: each};
  if (each.ph === "b") open.set(key, span);
  if (!rows.has(rowOf(each))) rows.set(rowOf(each), []);
  rows.get(rowOf(each)).push(span);
}
for (const row of rows.values()) row.sort((a, b) => a.began - b.began);
const tracks = [...rows.keys()].sort((a, b) => a - b).slice(0, MOST_ROWS);
let first = Infinity, last = -Infinity;
for (const row of rows.values())
  for (const span of row) { first = Math.min(first, span.began); last = Math.max(last, span.ended); }
if (first > last) first = last = 0;
const whole = {from: first, to: Math.max(last, first + 1)};
let view = {...whole};

function time(us) {
  if (us >= 1e6) return (us / 1e6).toFixed(3) + " s";
  return us >= 1e3 ? (us / 1e3).toFixed(3) + " ms" : us.toFixed(1) + " µs";
}

const canvas = document.getElementById("tracks"), detail = document.getElementById("detail");
function draw() {
  const width = canvas.clientWidth || 900, height = (tracks.length + 1) * ROW;
  const ratio = Math.min(devicePixelRatio || 1, 32000 / height);  // what a canvas takes
  canvas.width = width * ratio; canvas.height = height * ratio; canvas.style.height = height + "px";
  const pen = canvas.getContext("2d"), scale = (width - LEFT) / (view.to - view.from);
  const ink = getComputedStyle(document.body).color;
  pen.scale(ratio, ratio); pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle";
  pen.fillStyle = ink;
  pen.fillText(time(view.from - first), LEFT, ROW / 2);
  pen.textAlign = "right"; pen.fillText(time(view.to - first), width - 2, ROW / 2); pen.textAlign = "left";
  tracks.forEach((tid, place) => {
    const top = (place + 1) * ROW;
    pen.fillStyle = ink; pen.fillText(names.get(tid) || "track " + tid, 0, top + ROW / 2, LEFT - 8);
    pen.fillStyle = COLOURS[(Math.min(tid % 1e6, 5) + COLOURS.length - 1) % COLOURS.length];
    let drawn = -1;
    for (const span of rows.get(tid)) {
      if (span.ended < view.from || span.began > view.to) continue;
      const left = Math.floor(Math.max(LEFT, LEFT + (span.began - view.from) * scale));
      const right = Math.ceil(Math.min(width, LEFT + (span.ended - view.from) * scale));
      if (right < drawn) continue;  // in a pixel that has its colour
      pen.fillRect(left, top + 2, Math.max(1, right - left), ROW - 4);
      drawn = Math.max(left + 1, right);
    }
  });
}
function at(x) { return view.from + (x - LEFT) / (canvas.clientWidth - LEFT) * (view.to - view.from); }
function show(from, to) {
  const least = 1, wide = Math.min(whole.to - whole.from, Math.max(least, to - from));
  from = Math.min(Math.max(from, whole.from), whole.to - wide);
  view = {from, to: from + wide}; draw();
}
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const here = at(event.offsetX), by = Math.exp(event.deltaY / 300);
  show(here - (here - view.from) * by, here + (view.to - here) * by);
}, {passive: false});
let held = null;
canvas.addEventListener("pointerdown", event => { held = {x: event.offsetX, moved: false, ...view}; });
addEventListener("pointerup", () => { held = null; });
canvas.addEventListener("pointermove", event => {
  if (!held) return;
  const by = (event.offsetX - held.x) / (canvas.clientWidth - LEFT) * (held.to - held.from);
  show(held.from - by, held.to - by);
});
canvas.addEventListener("dblclick", () => show(whole.from, whole.to));
canvas.addEventListener("click", event => {
  const tid = tracks[Math.floor(event.offsetY / ROW) - 1], here = at(event.offsetX);
  const slack = (view.to - view.from) / (canvas.clientWidth - LEFT) * 3;
  const found = (rows.get(tid) || []).filter(
    span => span.began - slack <= here && here <= span.ended + slack);
  detail.textContent = found.slice(0, 20).map(({event: each}) =>
    `${each.name}  ${time(each.ts - first)}` + (each.dur === undefined ? "" : `, for ${time(each.dur)}`) +
    Object.entries(each.args || {}).map(([name, value]) => `\n  ${name}: ${value}`).join("")).join("\n");
});
addEventListener("resize", draw);

const about = trace.otherData || {}, first_loop = 1e6 * Math.min(...loops);
const turns = rows.get(first_loop + 1) || [], stalls = rows.get(first_loop + 4) || [];
const count = span => span.event.args.turns, took = span => span.ended - span.began;
const turned = turns.reduce((sum, span) => sum + count(span), 0);
// Several turns may be one span: brief ones of less than 1 us, or a long one after such.
const longest = turns.reduce(
  (most, span) => Math.max(most, took(span) < count(span) ? took(span) / count(span) : took(span)), 0);
document.getElementById("summary").textContent =
  `Loop ${about.loop} of process ${about.pid} on ${about.backend}, written ${about.written}: ` +
  `${turned} turns in ${time(last - first)}, the longest ${time(longest)}, ${stalls.length} stalls.`;

const WORDS = {turn_length: "length of a turn", lag: "lag", gil_wait: "wait for the GIL"};
for (const [name, counts] of Object.entries(about.histograms || {})) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const sum = counts.reduce((a, b) => a + b, 0), most = Math.max(1, ...counts.map(Math.log1p));
  caption.textContent = `${WORDS[name] || name}: ${sum} times; the bars are logarithmic`;
  const bars = document.createElement("div");
  bars.style.cssText = "display:flex;align-items:end;height:100px;gap:1px";
  counts.forEach((count, place) => {
    const bar = document.createElement("div");
    bar.style.cssText = `flex:1;background:#0969da;height:${100 * Math.log1p(count) / most}%`;
    bar.title = `${place === counts.length - 1 ? "longer" : "less than " + time(2 ** place)}: ${count}`;
    bars.append(bar);
  });
  figure.append(caption, bars); document.getElementById("histograms").append(figure);
}
draw();
</script>
</html>
"""
