"use strict";
// Curves of trainings: a panel for each quantity, a line for each run; the pointer is at one step in all panels.
(() => {
  const runs = [...new Set(page.curves.flatMap((panel) => panel.lines.map((line) => line.run)))];
  let plots = [];

  const style = (run) => ({ width: 2, ...lineStyle(runs.indexOf(run)) });
  const rounded = (value) => String(+value.toPrecision(5));

  // The steps of all lines, and the values of each, null where it has none.
  function columns(panel) {
    const steps = [...new Set(panel.lines.flatMap((line) => line.steps))].sort((a, b) => a - b), index = new Map(steps.map((step, i) => [step, i]));
    return [steps, ...panel.lines.map((line) => {
      const column = new Array(steps.length).fill(undefined); // undefined: no point, the line goes on; null: a gap
      line.steps.forEach((step, i) => { column[index.get(step)] = line.values[i]; });
      return column;
    })];
  }

  function draw(panel, target) {
    const data = columns(panel), axis = axisStyle();
    const positive = data.slice(1).every((column) => column.every((value) => value == null || value > 0));
    const few = data[0].length <= 40;
    const pad = (_, low, high) => low === high ? [low - 1, high + 1] : [low, high];
    return new uPlot({
      width: Math.max(220, target.clientWidth), height: 260, legend: { show: false },
      cursor: { sync: { key: "steps" }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: pad }, y: positive && panel.log && $("logarithmic").checked ? { distr: 3 } : { range: (_, low, high) => low === high ? [low - 1, high + 1] : uPlot.rangeNum(low, high, 0.1, true) } },
      axes: [{ ...axis, label: "optimizer step" }, { ...axis, size: 70, values: (_, splits) => splits.map((v) => v === null ? "" : rounded(v)) }],
      series: [{}, ...panel.lines.map((line) => ({ label: line.run, ...style(line.run), points: { show: few, size: 6, fill: style(line.run).stroke } }))],
      hooks: { setCursor: [(plot) => { if (plot.cursor.event) read(panel, plot, data); }] },
    }, data, target);
  }

  // The values at the pointer, or the last ones before it.
  function read(panel, plot, data) {
    const at = plot.cursor.idx;
    if (at == null) return;
    const values = panel.lines.map((line, k) => {
      for (let i = at; i >= 0; i--) if (data[k + 1][i] != null) return `${line.run} ${rounded(data[k + 1][i])}`;
      return `${line.run} –`;
    });
    $("curve-values").textContent = `${panel.title}, step ${data[0][at]}: ${values.join(" · ")}`;
  }

  function drawAll() {
    plots.forEach((plot) => plot.destroy());
    plots = page.curves.map((panel, i) => draw(panel, $("curves").children[i].lastElementChild));
    fillLegend($("runs-legend"), runs.map((run) => ({ label: run, ...style(run) })));
  }

  for (const panel of page.curves) {
    const figure = make("figure"), last = panel.lines.map((line) => `${line.run} ${line.values.length ? rounded(line.values.at(-1) ?? NaN) : "–"}`);
    figure.append(make("figcaption", panel.title), make("div", undefined, { role: "img", "aria-label": `${panel.title}; last values: ${last.join(", ")}` }));
    $("curves").append(figure);
  }
  $("logarithmic").addEventListener("change", drawAll);
  new ResizeObserver(() => plots.forEach((plot, i) => plot.setSize({ width: Math.max(220, $("curves").children[i].clientWidth), height: 260 }))).observe($("curves"));
  onColours(drawAll);
  drawAll();

  // Pictures of validations, one at a time.
  for (const slider of document.querySelectorAll("input[data-pictures]")) {
    const pictures = $(slider.dataset.pictures).children;
    const choose = () => [...pictures].forEach((picture, i) => { picture.hidden = i !== Number(slider.value); });
    slider.addEventListener("input", choose);
    choose();
  }
})();
