// Draws the pictures, switches entrants in all of them at once, and fits them to page and paper.
"use strict";

const PRINTED_WIDTH = 660;
const PRINTED_SMALL = 200;
const plots = [...document.querySelectorAll(".plot")];

for (const plot of plots) {
  const figure = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
  Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
}

const boxes = [...document.querySelectorAll("[data-entrant]")];

for (const box of boxes) {
  box.addEventListener("change", () => {
    const entrant = Number(box.dataset.entrant);
    for (const same of boxes) {
      if (same.dataset.entrant === box.dataset.entrant) same.checked = box.checked;
    }
    for (const plot of plots) {
      const traces = plot.data.flatMap((trace, i) => (trace.meta === entrant ? [i] : []));
      if (traces.length) Plotly.restyle(plot, { visible: box.checked }, traces);
    }
  });
}

// A picture in a folded part has no width before it is opened.
for (const folded of document.querySelectorAll("details")) {
  folded.addEventListener("toggle", () => {
    for (const plot of folded.querySelectorAll(".plot")) Plotly.Plots.resize(plot);
  });
}

addEventListener("beforeprint", () => {
  for (const plot of plots) {
    const small = plot.closest(".small-multiples");
    Plotly.relayout(plot, { width: small ? PRINTED_SMALL : PRINTED_WIDTH });
  }
});

addEventListener("afterprint", () => {
  for (const plot of plots) Plotly.relayout(plot, { width: null, autosize: true });
});
