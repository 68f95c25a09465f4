"use strict";
{
  const byId = (id) => document.getElementById(id);
  const { plots, drawings } = JSON.parse(byId("data").textContent);
  const models = {};

  // ---- the table -------------------------------------------------------------------------
  const table = byId("results");
  const headers = [...table.tHead.rows[0].cells];

  function sortBy(column) {
    const header = headers[column];
    const up = header.getAttribute("aria-sort") !== "ascending";
    const key = (row) => row.cells[column].dataset.sort;
    const number = header.classList.contains("num");
    const compare = (a, b) => (number ? a - b : a.localeCompare(b, "en", { numeric: true }));
    const rows = [...table.tBodies[0].rows].sort((one, other) => {
      const a = key(one), b = key(other);
      // What was not measured comes last, whichever way the rest is ordered.
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return up ? compare(a, b) : compare(b, a);
    });
    table.tBodies[0].append(...rows);
    headers.forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    byId("sorted").textContent =
      `Sorted by ${header.textContent.trim()}, ${up ? "ascending" : "descending"}.`;
  }
  headers.forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => sortBy(column)));

  // ---- the charts ------------------------------------------------------------------------
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function paint() {
    const soft = css("--soft"), line = css("--line"), ink = css("--ink");
    for (const plot of Object.values(models)) {
      for (const part of [...plot.below, ...plot.left, ...plot.center]) {
        if (part.type.endsWith("Grid")) part.setv({ grid_line_color: line });
        else if (part.type.endsWith("Axis")) {
          part.setv({
            axis_label_text_color: soft, major_label_text_color: soft,
            axis_line_color: soft, major_tick_line_color: soft,
          });
        }
      }
      for (const renderer of plot.renderers) {
        if (renderer.name !== "ink") continue;
        if (renderer.glyph.type === "Text") renderer.glyph.text_color = { value: ink };
        else renderer.glyph.line_color = { value: ink };
      }
    }
  }

  const source = (plot, name) => models[plot].document.get_model_by_name(name);

  function chart(id, found) {
    byId(id).hidden = !found;
    if (found) byId(id).querySelector(".note").textContent = found.note;
    return found;
  }

  function drawHistogram(found) {
    if (!chart("chart-histogram", found)) return;
    const total = found.counts.reduce((sum, n) => sum + n, 0);
    const top = Math.max(...found.counts);
    source("histogram", "bars").data = {
      left: found.edges.slice(0, -1), right: found.edges.slice(1), top: found.counts,
      share: found.counts.map((n) => n / total),
    };
    // Labels that would lie on each other are set one below the other.
    source("histogram", "marks").data = {
      x: found.marks.map((mark) => mark.x), label: found.marks.map((mark) => mark.label),
      top: found.marks.map((_, index) => top * (1.12 - 0.09 * index)),
    };
    const first = found.edges[0], last = found.edges.at(-1), room = 0.02 * (last - first);
    models.histogram.x_range.setv({ start: first - room, end: last + room });
    models.histogram.y_range.setv({ start: 0, end: top * 1.16 });
  }

  function drawConfusion(found) {
    if (!chart("chart-confusion", found)) return;
    const { names, counts, totals } = found;
    const cells = { predicted: [], true: [], count: [], share: [], alpha: [], label: [], ink: [] };
    counts.forEach((row, i) => row.forEach((count, j) => {
      const share = totals[i] ? count / totals[i] : 0;
      cells.true.push(names[i]);
      cells.predicted.push(names[j]);
      cells.count.push(count);
      cells.share.push(share);
      // The root shows rare confusions too; hover gives the exact share.
      cells.alpha.push(Math.sqrt(share));
      cells.label.push(names.length <= 12 && count ? String(count) : "");
      cells.ink.push(share > 0.3 ? "#ffffff" : css("--ink"));
    }));
    models.heatmap.x_range.factors = names;
    models.heatmap.y_range.factors = [...names].reverse();
    source("heatmap", "cells").data = cells;
  }

  const palette = ["#2f7fd1", "#d98e04", "#4f9d4f", "#d1495b", "#8a63d2", "#a0705a",
    "#c77dba", "#7d8597", "#1a9e96", "#8a9a1f", "#5b6ee1", "#c4603a"];

  function drawRoc(found) {
    if (!chart("chart-roc", found)) return;
    const pick = byId("curve"), before = pick.value;
    const options = ["all", ...found.curves.map((curve) => curve.name)].map((name, index) => {
      const auc = index ? found.curves[index - 1].auc : null;
      const text = !index || auc === null ? name : `${name}: AUC ${auc.toFixed(4)}`;
      return new Option(text, index ? `class ${name}` : "all");
    });
    pick.replaceChildren(...options);
    pick.value = options.some((option) => option.value === before) ? before : "all";
    const chosen = (curve) => pick.value === "all" || pick.value === `class ${curve.name}`;
    source("roc", "curves").data = {
      x: found.curves.map((curve) => curve.x), y: found.curves.map((curve) => curve.y),
      name: found.curves.map((curve) => curve.name), auc: found.curves.map((curve) => curve.auc),
      colour: found.curves.map((_, index) => palette[index % palette.length]),
      alpha: found.curves.map((curve) => (chosen(curve) ? 1 : 0.12)),
      width: found.curves.map((curve) => (chosen(curve) && pick.value !== "all" ? 3 : 1.6)),
    };
  }

  // ---- the chosen row --------------------------------------------------------------------
  const pick = byId("pick");

  function show() {
    const index = Number(pick.value), drawing = drawings[index];
    document.querySelectorAll("article.row").forEach((article, i) => { article.hidden = i !== index; });
    table.querySelectorAll("tbody tr").forEach((row) =>
      row.classList.toggle("picked", Number(row.dataset.row) === index));
    drawHistogram(drawing.histogram);
    drawConfusion(drawing.confusion);
    drawRoc(drawing.roc);
  }

  function followLink(event) {
    const link = event.target.closest("a[href^='#row-']");
    if (!link) return;
    event.preventDefault();
    pick.value = link.getAttribute("href").slice("#row-".length);
    show();
    byId("details").scrollIntoView();
    pick.focus({ preventScroll: true });
  }

  async function start() {
    for (const [name, item] of Object.entries(plots)) {
      const views = await Bokeh.embed.embed_item(item, `plot-${name}`);
      models[name] = [...views][0].model;
    }
    paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      paint();
      if (pick) show();
    });
    if (pick) {
      pick.addEventListener("change", show);
      byId("curve").addEventListener("change", () => drawRoc(drawings[Number(pick.value)].roc));
      table.addEventListener("click", followLink);
      show();
    }
    document.documentElement.dataset.ready = "yes";
  }
  start();
}
