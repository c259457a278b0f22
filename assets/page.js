// Pages work without this. It counts down, refreshes the parts that change, and draws the chart.
"use strict";

(() => {
  const REFRESH_MS = 3000;
  const TICK_MS = 100;
  const PAUSED = "warmproof.paused";

  // The database's clock decides what is due; our clock only measures how much time has passed since the page.
  let databaseNow = 0;
  let readAt = 0;
  const readClock = (root) => {
    const clock = root.getElementById("clock");
    if (!clock) return;
    databaseNow = Number(clock.dataset.now);
    readAt = performance.now();
  };
  const now = () => databaseNow + (performance.now() - readAt);

  const span = (ms) => {
    const seconds = Math.floor(ms / 1000);
    if (seconds < 60) return `${seconds}.${Math.floor((ms % 1000) / 100)} s`;
    const two = (value) => String(value).padStart(2, "0");
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
    return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
  };

  const countDown = () => {
    for (const time of document.querySelectorAll("time[data-due]")) {
      const left = Number(time.dataset.due) - now();
      time.textContent = left >= 0 ? `in ${span(left)}` : `${span(-left)} ago`;
      time.classList.toggle("over", left < 0);
    }
  };

  // Chart

  const GROUP = "\u202f";
  const grouped = (value) => String(value).replace(/\B(?=(\d{3})+(?!\d))/g, GROUP);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = new Map();

  const stacked = (data) => {
    // The highest series first, so that each lower one is drawn over it. A series that adds nothing is left out,
    // because its edge would be visible.
    const sums = data.values.map((own, index) => data.at.map((_, minute) =>
      own[minute] === 0 ? null : data.values.slice(0, index + 1).reduce((sum, series) => sum + series[minute], 0)));
    return [data.at, ...sums.reverse()];
  };

  const legendOf = (part) => (chart) => {
    const data = charts.get(part.id)?.data;
    if (!data) return;
    const minute = chart.cursor.idx;
    for (const cell of part.querySelectorAll("dd[data-series]")) {
      const shown = minute === null || minute === undefined ? cell.dataset.total : grouped(data.values[cell.dataset.series][minute]);
      if (cell.textContent !== shown) cell.textContent = shown;
    }
  };

  const draw = (part) => {
    const data = JSON.parse(part.dataset.chart);
    const plot = part.querySelector(".plot");
    part.classList.add("scripted");
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const bars = uPlot.paths.bars({ size: [0.82, 60], align: 1 });
    const series = data.classes.map((name) => {
      const fill = colour(`--series-${name}`);
      return { fill, stroke: fill, width: 0, paths: bars, points: { show: false } };
    });
    const options = {
      width: plot.clientWidth,
      height: plot.clientHeight,
      padding: [8, 4, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: { x: { range: (_, min, max) => [min, max + 60] }, y: { range: (_, _min, max) => [0, Math.max(max * 1.08, 4)] } },
      axes: [
        { ...axis, size: 26, gap: 4, space: 70, values: [[60, "{HH}:{mm}", null, null, null, null, null, null, 1]], incrs: [300, 600, 900, 1800] },
        { ...axis, size: 44, incrs: [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10000, 20000, 50000, 100000] },
      ],
      series: [{}, ...series.reverse()],
      hooks: { setCursor: [legendOf(part)] },
    };
    const chart = new uPlot(options, stacked(data), plot);
    charts.set(part.id, { chart, data });
  };

  const drawAll = () => {
    if (typeof uPlot === "undefined") return;
    for (const part of document.querySelectorAll("[data-chart]")) draw(part);
  };

  const redrawAll = () => {
    for (const { chart } of charts.values()) chart.destroy();
    charts.clear();
    drawAll();
  };

  // The parts that change are taken from a fresh copy of the page. Ticks, focus and open details stay.

  const put = (part, fresh) => {
    if (part.dataset.chart !== undefined && charts.has(part.id)) {
      const known = charts.get(part.id);
      part.dataset.chart = fresh.dataset.chart;
      known.data = JSON.parse(fresh.dataset.chart);
      known.chart.setData(stacked(known.data));
      part.querySelector(".legend").replaceWith(fresh.querySelector(".legend"));
      legendOf(part)(known.chart);
      return;
    }
    if (part.innerHTML === fresh.innerHTML) return;
    const ticked = [...part.querySelectorAll("input:checked")].map((tick) => tick.value);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    const scrolled = part.scrollLeft;
    part.replaceChildren(...fresh.childNodes);
    part.scrollLeft = scrolled;
    for (const tick of part.querySelectorAll("input[type=checkbox]")) tick.checked = ticked.includes(tick.value);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const refresh = async () => {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "error", cache: "no-store" });
    if (!answer.ok) throw new Error(`the page answered ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    readClock(fresh);
    const clock = document.getElementById("clock");
    const freshClock = fresh.getElementById("clock");
    if (clock && freshClock) clock.replaceChildren(...freshClock.childNodes);
    for (const part of document.querySelectorAll("[data-part]")) {
      const other = fresh.getElementById(part.id);
      if (other) put(part, other);
    }
    countDown();
  };

  const start = () => {
    readClock(document);
    const here = document.querySelector(".tabs [aria-current]");
    if (here) here.parentElement.scrollLeft = here.offsetLeft - (here.parentElement.clientWidth - here.offsetWidth) / 2;
    drawAll();
    countDown();
    setInterval(countDown, TICK_MS);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
    addEventListener("resize", () => {
      for (const { chart } of charts.values()) {
        const plot = chart.root.parentElement;
        chart.setSize({ width: plot.clientWidth, height: plot.clientHeight });
      }
    });
    addEventListener("keydown", (event) => {
      const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      document.getElementById("search")?.focus();
    });

    const button = document.querySelector("[data-refresh]");
    if (!button || !("live" in document.body.dataset)) return;
    let paused = sessionStorage.getItem(PAUSED) === "yes";
    let failed = false;
    const show = () => {
      button.textContent = failed ? "Offline" : paused ? "Paused" : "Live";
      button.dataset.refresh = failed ? "failed" : paused ? "paused" : "live";
      button.setAttribute("aria-pressed", String(paused));
      button.title = failed ? "The last refresh failed; the page tries again" : paused ? "Refresh again" : "Stop refreshing";
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      sessionStorage.setItem(PAUSED, paused ? "yes" : "no");
      show();
    });
    const loop = async () => {
      if (!paused && document.visibilityState === "visible") {
        try {
          await refresh();
          failed = false;
        } catch {
          failed = true;
        }
        show();
      }
      setTimeout(loop, REFRESH_MS);
    };
    show();
    setTimeout(loop, REFRESH_MS);
  };

  start();
})();
