"use strict";
// What all parts of the page share.
const page = JSON.parse(document.getElementById("page").textContent);

const $ = (id) => document.getElementById(id);

function make(name, text, attributes = {}) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Colour and dashes of line i: Okabe and Ito, 2008.
function lineStyle(i) {
  const palette = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"], dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
  return { stroke: palette[i % palette.length], dash: dashes[Math.floor(i / palette.length) % dashes.length] };
}

const axisStyle = () => ({ stroke: ink("--ink"), grid: { stroke: ink("--line"), width: 1 }, ticks: { stroke: ink("--line"), width: 1 } });

// Names and styles of lines, as SVG marks with text.
function fillLegend(target, lines) {
  target.replaceChildren(...lines.map(({ label, stroke, width, dash }) => {
    const item = make("span"), key = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [k, v] of Object.entries({ width: 32, height: 10, "aria-hidden": true })) key.setAttribute(k, v);
    for (const [k, v] of Object.entries({ x1: 0, x2: 32, y1: 5, y2: 5, stroke, "stroke-width": width, "stroke-dasharray": dash.join(" ") })) line.setAttribute(k, v);
    key.append(line);
    item.append(key, label);
    return item;
  }));
}

// Canvases keep the colours they were drawn with: `redraw` is called when those of the page change.
function onColours(redraw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  for (const [event, paper] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      document.documentElement.classList.toggle("paper", paper);
      redraw();
    });
  }
}
