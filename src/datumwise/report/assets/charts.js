// Every chart, drawn by Apache ECharts: SVG with the page's own CSS variables, a canvas for the map.
const css = (name) => `var(--${name})`;
const GLYPHS = [
  { symbol: "circle", size: 10, hollow: true },
  { symbol: "rect", size: 9 },
  { symbol: "triangle", size: 11 },
  { symbol: "diamond", size: 12 },
  { symbol: "path://M2.6.6 6 4 9.4.6l2 2L8 6l3.4 3.4-2 2L6 8l-3.4 3.4-2-2L4 6 .6 2.6z", size: 11 },
  { symbol: "path://m6 .3 1.7 3.8 4.1.4-3.1 2.7.9 4.1L6 9.2l-3.6 2.1.9-4.1L.2 4.5l4.1-.4z", size: 13 },
  { symbol: "path://M3.2 1h5.6l2.8 5-2.8 5H3.2L.4 6z", size: 12 },
  { symbol: "path://M6 11.2.4 1h11.2z", size: 11 },
];
const CLASSES = [
  "#4e79a7", "#f28e2b", "#4f9a46", "#e15759", "#a56c96", "#3f9a94",
  "#9c755f", "#cfa51f", "#e8799a", "#7b6fd0", "#5aa7d6", "#8f9d2f",
];
const MARGIN = 0.035; // empty share around the map

// A colour variable as the canvas needs it.
function resolved(name) {
  const probe = el("span", { style: `color:${css(name)}` });
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

const label = (extra = {}) => ({ color: css("soft"), fontSize: 12, fontFamily: getComputedStyle(document.body).fontFamily, ...extra });

// Point and 95 % interval of every set that the learner was trained on.
function drawIntervals(node, rows, axis) {
  const chart = echarts.init(node, null, { renderer: "svg" });
  const known = rows.map((row, i) => [row, i]).filter(([row]) => row.at.every((v) => v !== null));
  const step = axis.high - axis.low;
  const ticks = roundTicks(axis.low, axis.high, 3);
  const format = axis.percent
    ? (v) => `${(100 * v).toFixed(step < 0.04 ? 1 : 0)}%`.replace("-", "−")
    : (v) => v.toFixed(step < 0.04 ? 3 : 2).replace("-", "−");
  const category = (data, extra) => ({
    type: "category", inverse: true, data, axisLine: { show: false }, axisTick: { show: false }, splitLine: { show: false }, ...extra,
  });
  chart.setOption({
    animation: false,
    grid: { left: 108, right: 66, top: 0, bottom: 28, outerBoundsMode: "none" },
    xAxis: {
      type: "value", min: axis.low, max: axis.high, splitNumber: 4,
      axisLine: { show: false },
      axisLabel: label({ formatter: format, hideOverlap: true, customValues: ticks }),
      axisTick: { show: false, customValues: ticks },
      splitLine: { lineStyle: { color: css("line") } },
    },
    yAxis: [
      category(rows.map((row) => `${row.name} ${number(row.n)}`), { axisLabel: label({ color: css("ink"), margin: 12 }) }),
      category(rows.map((row) => row.text), { position: "right", axisLabel: label({ color: css("ink"), fontWeight: 700, margin: 12 }) }),
    ],
    series: [
      {
        type: "custom", silent: true,
        data: known.map(([row, i]) => [...row.at, i]),
        encode: { x: [0, 1, 2], y: 3 },
        renderItem(_, api) {
          const [low, middle, high] = [0, 1, 2].map((k) => api.coord([api.value(k), api.value(3)]));
          const colour = css(rows[api.value(3)].name === "cleaned" ? "accent" : "quiet");
          const line = { type: "line", shape: { x1: low[0], y1: low[1], x2: high[0], y2: high[1] }, style: { stroke: colour, lineWidth: 3, lineCap: "round" } };
          const dot = { type: "circle", shape: { cx: middle[0], cy: middle[1], r: 5.5 }, style: { fill: colour, stroke: css("card"), lineWidth: 1.5 } };
          return { type: "group", children: [line, dot] };
        },
      },
    ],
  });
  return chart;
}

// The largest of 1, 2, 5 times a power of ten that gives at least `parts` steps between two ends.
function roundStep(low, high, parts = 4) {
  const most = (high - low) / parts;
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((m) => m * power).find((step) => step <= most * (1 + 1e-9)); // most may be a hair below 0.1
}

// Round numbers between two ends; an end that is all but round counts as round.
function roundTicks(low, high, parts) {
  const step = roundStep(low, high, parts);
  const ticks = [];
  for (let k = Math.ceil(low / step - 0.05); k <= high / step + 0.05; k++) ticks.push(Math.min(Math.max(k * step, low), high));
  return ticks;
}

// Two charts on one spot: the picture, and a sheet above it for the brush alone, so that drawing redraws nothing else.
function sheets(node, renderer) {
  const [under, over] = [el("div", { class: "sheet" }), el("div", { class: "sheet" })];
  node.append(under, over);
  return [echarts.init(under, null, { renderer }), echarts.init(over, null, { renderer })];
}

// Counts of one score, all and chosen, on a log scale, with a brush along the score.
function makeHistogram(node, onRange) {
  const [chart, pen] = sheets(node, "svg");
  const bins = 48;
  let quiet = false;
  pen.on("brushEnd", ({ areas }) => quiet || onRange(areas.length ? areas[0].coordRange.slice() : null));

  function draw({ score, codes, chosen, active, threshold, range }) {
    const { all, some } = histogram(codes, bins, chosen);
    const flat = score.high === score.low;
    const low = flat ? score.low - 0.5 : score.low;
    const width = (flat ? 1 : score.high - score.low) / bins;
    const height = (n) => Math.log10(1 + n);
    const bars = (counts) => Array.from(counts, (n, i) => (n ? [low + (flat ? bins / 2 : i + 0.5) * width, height(n)] : null)).filter(Boolean);
    const tick = roundStep(low, low + width * bins);
    const most = Math.max(1, ...all);
    const ticks = [...[1, 10, 100, 1000, 10000, 100000].filter((n) => n <= most)];
    const bar = (counts, colour, z) => ({
      type: "custom", silent: true, z, data: bars(counts), encode: { x: 0, y: 1 },
      renderItem(_, api) {
        const [left, top] = api.coord([api.value(0) - width / 2, api.value(1)]);
        const [right, bottom] = api.coord([api.value(0) + width / 2, 0]);
        return { type: "rect", shape: { x: left + 0.5, y: top, width: Math.max(1, right - left - 1), height: Math.max(0, bottom - top), r: 1 }, style: { fill: css(colour) } };
      },
    });
    const mark = {
      type: "custom", silent: true, z: 5, data: threshold === null || threshold < low || threshold > low + width * bins ? [] : [[threshold, 0]],
      renderItem(params, api) {
        const [x] = api.coord([api.value(0), 0]);
        const { y, height: h, x: left, width: w } = params.coordSys;
        const flip = x > left + w * 0.7;
        return {
          type: "group",
          children: [
            { type: "line", shape: { x1: x, y1: y, x2: x, y2: y + h }, style: { stroke: css("ink"), lineWidth: 1.2, lineDash: [3, 3] } },
            { type: "text", style: { x: x + (flip ? -5 : 5), y, text: `threshold ${short(threshold)}`, fill: css("ink"), align: flip ? "right" : "left", fontSize: 11.5, fontFamily: label().fontFamily, stroke: css("card"), lineWidth: 3 } },
          ],
        };
      },
    };
    const grid = { left: 44, right: 14, top: 8, bottom: 22, outerBoundsMode: "none" };
    chart.setOption(
      {
        animation: false,
        grid,
        xAxis: {
          type: "value", min: low, max: low + width * bins, axisTick: { show: false }, splitLine: { show: false },
          axisLine: { lineStyle: { color: css("edge") } }, splitNumber: 5,
          axisLabel: label({ fontSize: 11.5, hideOverlap: true, customValues: roundTicks(low, low + width * bins), formatter: (v) => tidy(Math.round(v / tick) * tick, width * bins) }),
        },
        yAxis: {
          type: "value", min: 0, max: height(most) * 1.04, axisLine: { show: false }, axisTick: { show: false }, splitLine: { show: false },
          axisLabel: label({ fontSize: 11, customValues: ticks.map(height), formatter: (v) => number(Math.round(10 ** v - 1)), hideOverlap: true }),
        },
        series: [bar(all, active ? "dots" : "accent", 2), ...(active ? [bar(some, "accent", 3)] : []), mark],
      },
      { replaceMerge: ["series"] },
    );
    const brushStyle = { color: css("accent"), borderColor: css("accent"), borderWidth: 1, opacity: 0.16 };
    pen.setOption({
      animation: false,
      grid,
      xAxis: { type: "value", show: false, min: low, max: low + width * bins },
      yAxis: { type: "value", show: false, min: 0, max: 1 },
      brush: { brushType: "lineX", xAxisIndex: 0, brushStyle },
    });
    quiet = true;
    const areas = range ? [{ brushType: "lineX", xAxisIndex: 0, coordRange: range }] : [];
    pen.dispatchAction({ type: "brush", areas });
    pen.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: "lineX", brushMode: "single" } });
    quiet = false;
  }
  return { charts: [chart, pen], draw };
}

// Every datapoint as a dot, findings as glyphs on top, lasso and box.
function makeMap(node, page, onDraw, onPoint) {
  const { data, facts } = page;
  const [chart, pen] = sheets(node, "canvas");
  const count = data.x.length;
  const dot = count <= 1500 ? 5.5 : count <= 6000 ? 4.6 : 3;
  const whole = [-MARGIN * NOWHERE, (1 + MARGIN) * NOWHERE];
  let view = { x: whole, y: whole };
  let quiet = false;
  pen.on("brushEnd", ({ areas }) => {
    if (quiet) return;
    const [area] = areas;
    if (!area) return onDraw(null);
    const range = area.coordRange;
    const polygon = area.brushType === "polygon" ? range : [[range[0][0], range[1][0]], [range[0][1], range[1][0]], [range[0][1], range[1][1]], [range[0][0], range[1][1]]];
    if (polygon.length > 2) onDraw(polygon);
  });

  const place = (points) => {
    const flat = new Float32Array(2 * points.length);
    points.forEach((p, i) => {
      flat[2 * i] = data.x[p];
      flat[2 * i + 1] = data.y[p];
    });
    return flat;
  };
  const dots = (points, colour, z) => ({
    type: "scatter", large: true, largeThreshold: 0, progressive: 0, silent: true, animation: false, z,
    symbol: "circle", symbolSize: dot, itemStyle: { color: colour }, data: place(points), dimensions: ["x", "y"],
  });

  // Points in groups of one colour: [{name, colour, points}], and words for the legend.
  function groups(colour) {
    if (colour === "finding") return [{ name: null, colour: resolved("dots"), of: () => 0 }].map((g) => ({ ...g, points: page.placed }));
    if (colour === "label") {
      const sizes = new Map();
      for (const p of page.placed) sizes.set(data.label[p], (sizes.get(data.label[p]) ?? 0) + 1);
      const named = [...sizes.keys()].filter((c) => c !== NOWHERE);
      const top = new Set(named.sort((a, b) => sizes.get(b) - sizes.get(a)).slice(0, named.length > CLASSES.length ? CLASSES.length - 1 : CLASSES.length));
      const list = [...top].sort((a, b) => a - b).map((c, i) => ({ name: facts.classes[c] ?? "", colour: CLASSES[i], points: page.placed.filter((p) => data.label[p] === c) }));
      const others = page.placed.filter((p) => !top.has(data.label[p]));
      if (others.length) list.unshift({ name: top.size ? "other" : "no label", colour: resolved("dots"), points: others });
      return list;
    }
    const which = Number(colour);
    const codes = data[`score${which}`];
    const sorted = page.placed.filter((p) => codes[p] !== NOWHERE).sort((a, b) => codes[a] - codes[b]);
    const none = page.placed.filter((p) => codes[p] === NOWHERE);
    const steps = 6;
    const list = none.length ? [{ name: "none", colour: resolved("dots-faint"), points: none }] : [];
    for (let k = 0; k < steps; k++) {
      const points = sorted.slice(Math.round((k * sorted.length) / steps), Math.round(((k + 1) * sorted.length) / steps));
      if (!points.length) continue;
      const ends = [points[0], points[points.length - 1]].map((p) => short(decode(facts.scores[which], codes[p])));
      const mix = resolved(`s${k}`);
      list.push({ name: `${ends[0]} to ${ends[1]}`, colour: mix, points });
    }
    return list;
  }

  function draw({ chosen, active, kind, colour, focus }) {
    const faint = resolved("dots-faint");
    const list = groups(colour);
    const series = [];
    for (const group of list) {
      const off = active ? group.points.filter((p) => !chosen[p]) : [];
      const on = active ? group.points.filter((p) => chosen[p]) : group.points;
      if (off.length) series.push(dots(off, colour === "finding" ? faint : group.colour, 1));
      if (off.length && colour !== "finding") series.at(-1).itemStyle.opacity = 0.18;
      if (on.length) series.push(dots(on, active && colour === "finding" ? resolved("accent") : group.colour, 2));
    }
    series.push(...glyphSeries({ chosen, active, kind, plain: colour !== "finding" }));
    if (focus !== null && data.x[focus] !== NOWHERE) {
      series.push({
        type: "scatter", silent: true, animation: false, z: 9, symbol: "circle", symbolSize: 22, data: [[data.x[focus], data.y[focus]]],
        itemStyle: { color: "transparent", borderColor: resolved("ink"), borderWidth: 2 },
      });
    }
    const axis = (range) => ({ type: "value", show: false, min: range[0], max: range[1] });
    const frame = { animation: false, grid: { left: 0, right: 0, top: 0, bottom: 0, outerBoundsMode: "none" }, xAxis: axis(view.x), yAxis: axis(view.y) };
    chart.setOption({ ...frame, series }, { replaceMerge: ["series"] });
    const accent = resolved("accent");
    const brushStyle = { color: accent, borderColor: accent, borderWidth: 1.5, opacity: 0.14 };
    pen.setOption({ ...frame, brush: { xAxisIndex: 0, yAxisIndex: 0, transformable: false, brushStyle } });
    const [left, bottom] = chart.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, [0, 0]);
    const [right, top] = chart.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, [NOWHERE - 1, NOWHERE - 1]);
    page.frame = { left, bottom, right, top };
    node.dataset.frame = [left, top, right, bottom].join(" ");
    return list;
  }

  function glyphSeries({ chosen, active, kind, plain }) {
    const marks = [];
    facts.findings.forEach((finding, f) => {
      if (kind >= 0 && kind !== f) return;
      for (const p of page.flagged) if ((data.flags[p] >> finding.bit) & 1) marks.push([f, p]);
    });
    const spots = marks.map(([, p]) => pixel(p));
    const offsets = marks.length <= 3000 ? spread(spots) : spots.map(() => [0, 0]);
    const ink = resolved("ink"), card = resolved("card");
    return facts.findings.map((finding, f) => {
      const { symbol, size, hollow } = GLYPHS[finding.glyph];
      const colour = plain ? ink : resolved(`k${finding.glyph}`);
      const style = hollow ? { color: "transparent", borderColor: colour, borderWidth: 2 } : { color: colour, borderColor: card, borderWidth: 0.75 };
      const items = [];
      marks.forEach(([which, p], i) => {
        if (which !== f) return;
        const item = { value: [data.x[p], data.y[p]] };
        if (offsets[i][0] || offsets[i][1]) item.symbolOffset = offsets[i];
        if (active && !chosen[p]) item.itemStyle = { opacity: 0.16 };
        items.push(item);
      });
      return { type: "scatter", silent: true, animation: false, progressive: 0, z: 4 + (f === kind), symbol, symbolSize: size, itemStyle: style, data: items.reverse() };
    });
  }

  function pixel(p) {
    const { left, right, top, bottom } = page.frame ?? { left: 0, right: node.clientWidth, top: 0, bottom: node.clientHeight };
    return [left + (data.x[p] / (NOWHERE - 1)) * (right - left), bottom + (data.y[p] / (NOWHERE - 1)) * (top - bottom)];
  }

  function nearest(x, y, reach = 9) {
    let best = null, least = reach * reach;
    for (const p of page.placed) {
      const [px, py] = pixel(p);
      const d = (px - x) ** 2 + (py - y) ** 2 - (data.flags[p] ? 9 : 0);
      if (d < least) [best, least] = [p, d];
    }
    return best;
  }
  pen.getZr().on("mousemove", (e) => onPoint(e.event.buttons ? null : nearest(e.offsetX, e.offsetY), e.offsetX, e.offsetY, false));
  pen.getZr().on("globalout", () => onPoint(null, 0, 0, false));
  pen.getZr().on("click", (e) => onPoint(nearest(e.offsetX, e.offsetY), e.offsetX, e.offsetY, true));

  return {
    charts: [chart, pen],
    draw,
    pixel,
    tool(type) {
      pen.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: type ?? false, brushMode: "single" } });
    },
    outline(polygon) {
      quiet = true;
      pen.dispatchAction({ type: "brush", areas: polygon ? [{ brushType: "polygon", xAxisIndex: 0, yAxisIndex: 0, coordRange: polygon }] : [] });
      quiet = false;
    },
    look(points) {
      if (!points) view = { x: whole, y: whole };
      else {
        const around = (codes) => {
          let low = NOWHERE, high = 0;
          for (const p of points) (low = Math.min(low, codes[p])), (high = Math.max(high, codes[p]));
          const air = Math.max(0.06 * (high - low), 300);
          return [low - air, high + air];
        };
        view = { x: around(data.x), y: around(data.y) };
      }
    },
  };
}
