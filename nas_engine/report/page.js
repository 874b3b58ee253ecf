"use strict";
// Draws the figures that lie in the page as JSON, in the colours of the page's theme; and the chooser of costs.
(() => {
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const config = {
    displaylogo: false,
    responsive: true,
    displayModeBar: window.matchMedia("(hover: hover)").matches ? "hover" : false,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
  };

  function template() {
    const axis = {
      gridcolor: colour("--grid"), linecolor: colour("--line"), tickcolor: colour("--line"),
      zeroline: false, showline: true, ticks: "outside", ticklen: 4, automargin: true,
      title: { standoff: 8, font: { size: 12.5 } },
    };
    return {
      layout: {
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--muted") },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        xaxis: axis,
        yaxis: axis,
        margin: { l: 52, r: 14, t: 40, b: 48 },
        legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", font: { size: 12 } },
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--ink") },
      },
    };
  }

  function draw(plot, width) {
    const text = plot.nextElementSibling.textContent.replace(/var\((--[\w-]+)\)/g, (_, name) => colour(name));
    const figure = JSON.parse(text);
    const layout = { ...figure.layout, template: template(), height: Number(plot.dataset.height), autosize: true };
    if (!figure.data.some((trace) => trace.name && trace.showlegend !== false)) layout.margin = { l: 52, r: 14, t: 10, b: 48 };
    if (width) Object.assign(layout, { width, autosize: false });
    Plotly.react(plot, figure.data, layout, config);
  }

  const visible = () => [...document.querySelectorAll(".plot")].filter((plot) => plot.offsetParent !== null);
  const drawAll = (width) => visible().forEach((plot) => draw(plot, width));

  function choose(button) {
    const group = button.closest("[data-chooser]");
    for (const other of group.querySelectorAll("[role=tab]")) {
      other.setAttribute("aria-selected", String(other === button));
      other.tabIndex = other === button ? 0 : -1;
    }
    for (const panel of group.querySelectorAll("[data-panel]")) panel.hidden = panel.dataset.panel !== button.dataset.tab;
    drawAll();
  }

  for (const button of document.querySelectorAll("[role=tab]")) {
    button.addEventListener("click", () => choose(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const tabs = [...button.parentElement.children];
      const next = tabs[(tabs.indexOf(button) + step + tabs.length) % tabs.length];
      next.focus();
      choose(next);
    });
  }

  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
  window.addEventListener("beforeprint", () => { root.classList.add("printing"); drawAll(680); });
  window.addEventListener("afterprint", () => { root.classList.remove("printing"); drawAll(); });
  drawAll();
})();
