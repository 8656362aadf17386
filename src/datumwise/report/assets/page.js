// What is chosen, and the list, the table and the charts that follow it.
const PAGE = 10; // rows of the table on the screen
const PRINTED = 30; // rows of the table on paper
const PAPER = { map: ["694px", "300px"], intervals: ["318px", "calc(var(--rows) * 26px + 30px)"] }; // A4 less its margins is 703 px wide
const LISTED = { pictures: 72, rows: 40 };
const $ = (id) => document.getElementById(id);

async function start() {
  const facts = JSON.parse($("facts").textContent);
  const themed = themeButton();
  const intervals = [...document.querySelectorAll(".intervals")].map((node) =>
    drawIntervals(node, facts.proof.cards[Number(node.dataset.card)], facts.proof),
  );
  if (typeof DecompressionStream === "undefined") {
    $("count").textContent = "This browser is too old for the map, the list and the table: any browser since 2023 shows them.";
    return;
  }
  const data = await unpack($("data").textContent, facts.layout);
  if (facts.sprite.mime) {
    const url = URL.createObjectURL(new Blob([bytesOf($("sprite").textContent)], { type: facts.sprite.mime }));
    document.documentElement.style.setProperty("--sprite", `url("${url}")`);
  }
  const all = Array.from(data.ids, (_, p) => p);
  const page = {
    facts, data, all,
    pictures: Boolean(facts.sprite.mime),
    placed: all.filter((p) => data.x[p] !== NOWHERE && data.y[p] !== NOWHERE),
    flagged: all.filter((p) => data.flags[p] || data.evidence[p]),
  };
  run(page, intervals, themed);
  document.body.dataset.ready = "true";
}

function themeButton() {
  const root = document.documentElement, button = $("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const listeners = [];
  const tell = () => {
    button.textContent = dark() ? "Light" : "Dark";
    listeners.forEach((listener) => listener());
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    tell();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  tell();
  return { on: (listener) => listeners.push(listener), root };
}

function run(page, intervals, themed) {
  const { facts, data, all } = page;
  const state = { kind: -1, polygon: null, range: null, score: 0, colour: "finding", sort: null, descending: false, at: 0, focus: null, tool: null, zoomed: false };
  const chosen = new Uint8Array(all.length);
  let shown = []; // points that the list and the table go through
  let rowsPerPage = PAGE;
  const entry = (p) => data.evidence[p] ?? null;
  const kindsOf = (p) => entry(p)?.[0] ?? facts.findings.map((_, f) => f).filter((f) => (data.flags[p] >> facts.findings[f].bit) & 1);
  const given = (p) => entry(p)?.[1] ?? facts.classes[data.label[p]] ?? null;
  const suggested = (p) => entry(p)?.[2] ?? null;
  const scoreOf = (p, s) => decode(facts.scores[s], data[`score${s}`][p]);
  page.kindsOf = kindsOf;

  // ---- choose
  const selection = () => facts.chosen[state.kind - facts.findings.length]; // when a selection's button is pressed
  function choose() {
    const within = state.polygon ? enclosed(state.polygon, data.x, data.y) : null;
    const bit = facts.findings[state.kind]?.bit;
    const ranks = selection() && data[`score${selection().score}`];
    const codes = facts.scores.length ? data[`score${state.score}`] : null;
    for (let p = 0; p < chosen.length; p++) {
      let keep = state.kind < 0 || (ranks ? ranks[p] !== NOWHERE : (data.flags[p] >> bit) & 1);
      if (keep && within) keep = within[p];
      if (keep && state.range) {
        const value = decode(facts.scores[state.score], codes[p]);
        keep = value >= state.range[0] && value <= state.range[1];
      }
      chosen[p] = keep ? 1 : 0;
    }
    const drawn = state.polygon || state.range;
    if (drawn || state.kind >= 0) shown = all.filter((p) => chosen[p]);
    else shown = page.flagged.length ? page.flagged : all.slice(0, 100);
    if (ranks && !drawn) shown.sort((p, q) => ranks[p] - ranks[q]); // in the order chosen
    state.at = 0;
  }
  const active = () => Boolean(state.polygon || state.range);

  // ---- words about the choice
  function sentence() {
    const found = shown.filter((p) => data.flags[p]).length;
    if (!all.length) return "There is no datapoint to show.";
    if (active()) return `${number(shown.length)} selected, ${number(found)} with a finding.`;
    if (selection()) return `${number(shown.length)} of the map chosen, in the order chosen.`;
    if (state.kind >= 0) return `${number(shown.length)} ${facts.findings[state.kind].title}.`;
    const how = "Draw around points on the map, drag over the score bars below it, or pick a kind above.";
    if (!page.flagged.length) return `No datapoint has a finding: these have the highest scores. ${how}`;
    return `${number(found)} with a finding. ${how}`;
  }
  // Why a point without finding is not listed: its scores beside the thresholds.
  function why(p) {
    const parts = facts.findings.flatMap((finding) => {
      const s = facts.scores.findIndex((score) => score.name === finding.score);
      if (s < 0 || finding.threshold === null) return [];
      const value = scoreOf(p, s);
      if (Number.isNaN(value)) return [`${finding.title}: not computed`];
      const beside = value < finding.threshold ? "below the threshold" : "threshold";
      return [`${spaced(finding.score)} ${short(value)}, ${beside} ${short(finding.threshold)}`];
    });
    return parts.length ? `no finding: ${parts.slice(0, 3).join("; ")}` : "no finding";
  }

  // ---- list
  function fillList() {
    const list = $("list");
    list.className = page.pictures ? "pictures" : "rows";
    const some = shown.slice(0, page.pictures ? LISTED.pictures : LISTED.rows);
    list.replaceChildren(
      ...some.map((p) => {
        const button = el("button", { type: "button", "data-point": p, "aria-current": String(p === state.focus), onclick: () => focus(p, true) });
        const label = change(given(p), suggested(p));
        if (page.pictures) button.append(el("span", { class: "slot" }, thumb(page, p, 48) ?? "no picture"), el("br"), label.textContent ? label : words(data.ids[p].slice(0, 12)));
        else {
          const meta = el("span", { class: "meta" }, words(clip(data.ids[p], 40), "span", "u id"), label, kindTags(p, true));
          button.append(...[meta, content(page, p, 150, 3)].filter(Boolean));
        }
        return button;
      }),
    );
    const sized = some.length < shown.length ? ` The first ${number(some.length)} are here, all in the table.` : "";
    $("count").textContent = sentence() + sized;
    $("count").dataset.count = shown.length;
    const nothing = active() || state.kind >= 0 ? "Nothing selected" : "Most suspicious first";
    $("list-title").textContent = shown.length ? (selection() ? "First chosen first" : "Most suspicious first") : nothing;
    $("copy").disabled = $("save").disabled = !shown.length;
  }
  const spaced = (name) => name.replaceAll("_", " ");
  const clip = (text, limit) => (text.length > limit ? text.slice(0, limit - 1) + "…" : text);
  function kindTags(p, brief) {
    const box = el(brief ? "span" : "div");
    for (const f of kindsOf(p)) box.append(el(brief ? "span" : "div", {}, glyph(facts.findings[f].glyph), el("span", { text: singular(facts.findings[f].title) }), brief ? " " : ""));
    if (!box.childNodes.length && !brief) box.append("–");
    return box;
  }
  const singular = (title) => title.replace(/^(label errors|near duplicates|duplicates|outliers)$/, (word) => word.slice(0, -1));

  // ---- table
  const some = (test) => data.evidence.some(test);
  const hasGiven = facts.classes.length > 0 || some((e) => e[1] !== null);
  const columns = [
    (page.pictures || Object.keys(data.texts).length > 0) && { title: "Datapoint", name: page.pictures ? "picture" : "words", cell: (p) => (page.pictures ? thumb(page, p, 40) : content(page, p)) ?? "–" },
    { title: "id", name: "id", sort: (p) => data.ids[p], cell: (p) => words(clip(data.ids[p], 120)) },
    { title: "Finding", name: "what", sort: (p) => kindsOf(p)[0] ?? 99, cell: (p) => kindTags(p, false) },
    hasGiven && { title: "Given", name: "given", sort: given, cell: (p) => words(given(p) ?? "–") },
    some((e) => e[2] !== null) && { title: "Suggested", name: "suggested", sort: suggested, cell: (p) => words(suggested(p) ?? "–") },
    { title: "Evidence", name: "why", cell: (p) => words(entry(p)?.[3] ?? why(p)) },
    some((e) => e[4].length > 0) && { title: "Nearest three", name: "nearest", cell: nearest },
    some((e) => e[5] !== null) && { title: "p(given)", name: "num", sort: (p) => entry(p)?.[5] ?? null, cell: (p) => (entry(p)?.[5] ?? null) === null ? "–" : entry(p)[5].toFixed(3) },
  ].filter(Boolean);

  function nearest(p) {
    const near = entry(p)?.[4] ?? [];
    if (!near.length) return "–";
    if (page.pictures) {
      return el("div", { class: "near" }, ...near.map((q) => el("figure", { title: data.ids[q] }, thumb(page, q, 24) ?? "–", el("figcaption", {}, words(clip(given(q) ?? data.ids[q], 24))))));
    }
    const line = (q) => {
      const text = facts.kind === "text" ? content(page, q, 90) : words(clip(data.ids[q], 24));
      return el("div", { title: data.ids[q] }, given(q) === null ? null : words(given(q), "b"), text);
    };
    return el("div", { class: facts.kind === "text" ? "near lines long" : "near lines" }, ...near.map(line));
  }

  const byWords = new Intl.Collator("en", { numeric: true }).compare;
  function sorted() {
    const column = columns.find((c) => c.title === state.sort);
    if (!column) return shown;
    const keyed = shown.map((p) => [column.sort(p), p]);
    const sign = state.descending ? -1 : 1;
    keyed.sort(([a, p], [b, q]) => {
      if (a === null || b === null) return (a === null) - (b === null) || p - q; // those without stay last
      return sign * (typeof a === "number" ? a - b : byWords(a, b)) || p - q;
    });
    return keyed.map(([, p]) => p);
  }

  function fillHead(plain = false) {
    const cells = columns.map((column) => {
      const name = [column.name === "num" ? "num" : "", column.sort ? "sorts" : ""].join(" ").trim();
      if (!column.sort || plain) return el("th", { scope: "col", class: name, role: "columnheader", text: column.title });
      const on = state.sort === column.title;
      const arrow = on ? (state.descending ? " ▼" : " ▲") : "";
      const button = el("button", { type: "button", "data-sort": column.title, onclick: () => sortBy(column.title) }, column.title, el("span", { "aria-hidden": "true", text: arrow }));
      return el("th", { scope: "col", class: name, role: "columnheader", "aria-sort": on ? (state.descending ? "descending" : "ascending") : "none" }, button);
    });
    $("evidence").tHead.replaceChildren(el("tr", { role: "row" }, ...cells));
  }
  function sortBy(title) {
    if (state.sort !== title) [state.sort, state.descending] = [title, false];
    else if (!state.descending) state.descending = true;
    else state.sort = null;
    state.at = 0;
    fillHead();
    fillTable();
    document.querySelector(`[data-sort="${title}"]`).focus();
  }
  function fillTable() {
    const order = sorted();
    const rows = order.slice(state.at, state.at + rowsPerPage);
    $("evidence").tBodies[0].replaceChildren(
      ...rows.map((p) =>
        el(
          "tr",
          { role: "row", "data-point": p, class: p === state.focus ? "current" : null, onclick: () => !String(getSelection()) && focus(p, false) },
          ...columns.map((column) => {
            const cell = column.cell(p);
            const none = (cell.textContent ?? cell) === "–";
            return el("td", { role: "cell", class: none ? `${column.name} none` : column.name, "data-label": column.title }, cell);
          }),
        ),
      ),
    );
    if (!rows.length) $("evidence").tBodies[0].append(el("tr", { role: "row" }, el("td", { role: "cell", colspan: columns.length, text: "Nothing here: choose a wider range, or press Esc." })));
    const last = Math.min(state.at + rowsPerPage, order.length);
    $("where").textContent = order.length ? `${number(state.at + 1)} to ${number(last)} of ${number(order.length)}` : "0 of 0";
    $("previous").disabled = state.at === 0;
    $("next").disabled = last >= order.length;
  }
  function turn(step) {
    state.at = Math.max(0, state.at + step * rowsPerPage);
    fillTable();
  }

  // ---- map and histogram
  const map = makeMap($("map"), page, (polygon) => update({ polygon }), hover);
  const hist = facts.scores.length ? makeHistogram($("hist"), (range) => update({ range })) : null;
  const tip = el("div", { class: "tip", hidden: "" });
  $("map").append(tip);

  function hover(p, x, y, pinned) {
    if (pinned && p !== null && !active()) focus(p, true);
    tip.hidden = p === null;
    if (p === null) return;
    if (tip.dataset.point !== String(p)) {
      tip.dataset.point = p;
      const label = given(p) === null ? null : el("p", {}, "label ", change(given(p), suggested(p)));
      const reason = kindsOf(p).length ? [kindTags(p, false), entry(p) ? words(entry(p)[3], "p") : null] : [el("p", { class: "note", text: why(p) })];
      const text = page.pictures ? null : content(page, p, 120, 3);
      tip.replaceChildren(...[page.pictures ? thumb(page, p, 48) : null, el("div", {}, words(clip(data.ids[p], 60), "p", "u id"), text, label, ...reason)].filter(Boolean));
    }
    const { clientWidth, clientHeight } = $("map");
    tip.style.left = `${Math.max(4, x + 14 + tip.offsetWidth > clientWidth ? x - 14 - tip.offsetWidth : x + 14)}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 12, clientHeight - tip.offsetHeight - 4))}px`;
  }

  function drawCharts() {
    const groups = map.draw({ chosen, active: active() || Boolean(selection()), kind: state.kind, colour: state.colour, focus: state.focus });
    const named = groups.filter((group) => group.name !== null);
    $("legend").replaceChildren(...named.map((group) => el("span", {}, el("i", { style: `background:${group.colour}` }), words(clip(group.name, 24)))));
    if (!hist) return;
    const score = facts.scores[state.score];
    const finding = facts.findings.find((f) => f.score === score.name && (state.kind < 0 || selection() || f === facts.findings[state.kind]));
    hist.draw({ score, codes: data[`score${state.score}`], chosen, active: active() || state.kind >= 0, threshold: finding?.threshold ?? null, range: state.range });
  }

  // After the list and the table are on the screen.
  let planned = 0;
  function drawSoon() {
    cancelAnimationFrame(planned);
    planned = requestAnimationFrame(() => setTimeout(drawCharts));
  }

  function focus(p, turnTo) {
    state.focus = state.focus === p && !turnTo ? null : p;
    if (turnTo) {
      const at = sorted().indexOf(p);
      if (at >= 0) state.at = Math.floor(at / rowsPerPage) * rowsPerPage;
    }
    fillTable();
    for (const button of $("list").children) button.setAttribute?.("aria-current", String(Number(button.dataset.point) === state.focus));
    drawSoon();
  }

  function update(changes) {
    Object.assign(state, changes, { focus: null });
    tip.hidden = true;
    choose();
    fillList();
    fillTable();
    drawSoon();
    if ("polygon" in changes && !changes.polygon) map.outline(null);
    for (const button of document.querySelectorAll(".kind")) button.setAttribute("aria-pressed", String(Number(button.dataset.kind) === state.kind));
    $("clear").disabled = !active();
    $("zoom").disabled = !(state.zoomed || (active() && shown.length));
    $("zoom").textContent = state.zoomed ? "Zoom out" : "Zoom in";
    const score = facts.scores[state.score];
    const span = score ? score.high - score.low : 1;
    $("low").value = score ? tidy(state.range ? state.range[0] : score.low, span, Math.floor) : "";
    $("high").value = score ? tidy(state.range ? state.range[1] : score.high, span, Math.ceil) : "";
  }
  const clear = () => update({ polygon: null, range: null });

  // ---- controls
  for (const button of document.querySelectorAll(".kind")) {
    button.addEventListener("click", () => {
      const kind = Number(button.dataset.kind);
      const score = facts.scores.findIndex((s) => s.name === facts.findings[kind]?.score);
      const other = score >= 0 && score !== state.score;
      if (other) $("score").value = state.score = score;
      update(other ? { kind, range: null } : { kind });
    });
  }
  const option = (value, text) => el("option", { value, text });
  $("colour").append(option("finding", "finding"), ...(facts.classes.length ? [option("label", "label")] : []), ...facts.scores.map((s, i) => option(i, spaced(s.name))));
  $("colour").addEventListener("change", (e) => { state.colour = e.target.value; drawCharts(); });
  $("score").append(...facts.scores.map((s, i) => option(i, spaced(s.name))));
  $("score").addEventListener("change", (e) => update({ score: Number(e.target.value), range: null }));
  if (!hist) document.querySelector(".hist-tools").hidden = $("hist").hidden = true;
  for (const id of ["low", "high"]) {
    $(id).addEventListener("change", () => {
      const { low, high } = facts.scores[state.score];
      const ends = ["low", "high"].map((name) => Number($(name).value.trim().replace("−", "-").replace(",", ".")));
      const [from, to] = [Number.isFinite(ends[0]) ? ends[0] : low, Number.isFinite(ends[1]) ? ends[1] : high];
      update({ range: from <= low && to >= high ? null : [Math.min(from, to), Math.max(from, to)] });
    });
  }
  function setTool(tool) {
    state.tool = state.tool === tool ? null : tool;
    map.tool(state.tool);
    $("map").classList.toggle("drawing", state.tool !== null);
    $("lasso").setAttribute("aria-pressed", String(state.tool === "polygon"));
    $("box").setAttribute("aria-pressed", String(state.tool === "rect"));
  }
  $("lasso").addEventListener("click", () => setTool("polygon"));
  $("box").addEventListener("click", () => setTool("rect"));
  $("clear").addEventListener("click", clear);
  $("zoom").addEventListener("click", () => {
    state.zoomed = !state.zoomed;
    map.look(state.zoomed ? shown.filter((p) => data.x[p] !== NOWHERE && data.y[p] !== NOWHERE) : null);
    update({});
    drawCharts();
    map.outline(state.polygon);
  });
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("copy").addEventListener("click", async () => {
    const ids = shown.map((p) => data.ids[p]);
    try {
      await navigator.clipboard.writeText(ids.join("\n"));
      $("count").textContent = `${plural(ids.length, "id")} copied.`;
    } catch {
      $("count").textContent = "This browser does not let a file copy: use Save ids.";
    }
  });
  $("save").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([csvOf(shown.map((p) => data.ids[p]))], { type: "text/csv" }));
    const name = facts.name.replace(/[^\p{L}\p{N}_-]+/gu, "-").slice(0, 60) || "datumwise";
    el("a", { href: url, download: `${name}-ids.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    state.zoomed = false;
    map.look(null);
    update({ kind: -1, polygon: null, range: null });
  });

  // ---- paper, size, colours
  const charts = [...intervals, ...map.charts, ...(hist?.charts ?? [])];
  function fit() {
    charts.forEach((chart) => chart.resize({ animation: { duration: 0 } }));
    drawCharts();
    map.outline(state.polygon);
  }
  let waiting = 0;
  new ResizeObserver(() => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(fit);
  }).observe(document.querySelector("main"));
  themed.on(drawCharts);
  let before = null;
  const paper = ({ map: [width, height], intervals: [across, down] }) => {
    Object.assign($("map").style, { width, height });
    document.querySelectorAll(".intervals").forEach((node) => Object.assign(node.style, { width: across, height: down }));
  };
  addEventListener("beforeprint", () => {
    before = { theme: themed.root.dataset.theme, at: state.at };
    themed.root.dataset.theme = "light";
    rowsPerPage = PRINTED;
    fillHead(true); // buttons are not repeated on the next sheet, words are
    fillTable();
    paper(PAPER);
    fit();
    charts.forEach((chart) => chart.getZr().flush());
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    if (before.theme) themed.root.dataset.theme = before.theme;
    else delete themed.root.dataset.theme;
    rowsPerPage = PAGE;
    state.at = before.at;
    fillHead();
    paper({ map: ["", ""], intervals: ["", ""] });
    fillTable();
    fit();
  });

  fillHead();
  update({});
  drawCharts();
  if (matchMedia("(pointer: fine)").matches) setTool("polygon");
}

start();
