"use strict";
// Everything below the charts: rows and failures, unpacked as they are needed, filtered, searched and paged.
(() => {
  const element = (id) => document.getElementById(id);
  const meta = JSON.parse(element("meta").textContent);
  const PAGE = 25;
  const chunks = new Map();
  let columns = null;
  let drawing = 0;

  const unpack = async (id) => {
    const packed = Uint8Array.from(atob(element(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  };
  const chunk = (kind, number) => {
    const id = `${kind}-${number}`;
    if (!chunks.has(id)) chunks.set(id, unpack(id));
    return chunks.get(id);
  };

  // The state is in the address, so that a view can be kept and shared.
  const defaults = { view: "rows", q: "", label: "", reason: "", flags: "", sort: "", page: "1" };
  const read = () => ({ ...defaults, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) });
  const write = (changes) => {
    const state = { ...read(), page: "1", ...changes };
    const kept = Object.entries(state).filter(([name, value]) => value !== defaults[name] && name in defaults);
    history.replaceState(null, "", "#" + new URLSearchParams(kept));
    draw();
  };

  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  // Text only ever becomes text: no row can bring markup in.
  const marked = (node, text, query) => {
    if (!query) { node.textContent = text; return node; }
    const folded = text.toLowerCase();
    let from = 0;
    for (let at = folded.indexOf(query); at >= 0 && node.childNodes.length < 400; at = folded.indexOf(query, from)) {
      node.append(text.slice(from, at), make("mark", "", text.slice(at, at + query.length)));
      from = at + query.length;
    }
    node.append(text.slice(from));
    return node;
  };

  const label = (number) => (number < 0 ? null : meta.labels[number]);
  const wanted = (state) => {
    const flags = state.flags ? state.flags.split(",") : [];
    const on = flags.filter((f) => f[0] !== "-").map(Number);
    const off = flags.filter((f) => f[0] === "-").map((f) => Number(f.slice(1)));
    const only = state.label === "" ? null : meta.labels.indexOf(state.label);
    return (n) => {
      const bits = columns.flags[n];
      if (on.some((f) => !(bits & (1 << f))) || off.some((f) => bits & (1 << f))) return false;
      return only === null || columns.gold[n] === only || columns.teacher[n] === only;
    };
  };
  const orders = {
    input: (n) => columns.input[n], rationale: (n) => columns.rationale[n], weight: (n) => -columns.weight[n],
  };

  const find = async (state, turn) => {
    let found = [];
    const keep = wanted(state);
    for (let n = 0; n < meta.rows; n++) if (keep(n)) found.push(n);
    const query = state.q.toLowerCase();
    if (query) {
      const hits = [];
      for (const n of found) {
        const row = (await chunk("rows", Math.floor(n / meta.chunk)))[n % meta.chunk];
        if (turn !== drawing) return null;
        if (row.search === undefined) {
          row.search = [row[0], row[1], ...row[2], label(columns.gold[n]) || "", label(columns.teacher[n]) || ""].join("\n").toLowerCase();
        }
        if (row.search.includes(query)) hits.push(n);
      }
      found = hits;
    }
    const key = orders[state.sort];
    if (key) found.sort((a, b) => key(b) - key(a) || a - b);
    return found;
  };

  const rowCard = (n, row, query) => {
    const card = make("article", "row");
    const head = make("header");
    head.append(marked(make("b"), row[0], query), make("span", "", `row ${(n + 1).toLocaleString("en")}`));
    head.append(make("span", "", `${columns.input[n]} / ${columns.target[n]} / ${columns.rationale[n]} ${meta.unit}`));
    if (columns.weight[n] !== 1) head.append(make("span", "", `weight ${columns.weight[n].toPrecision(3)}`));
    meta.flags.forEach((name, f) => {
      if (columns.flags[n] & (1 << f) && name !== "agrees") head.append(make("span", meta.good.includes(name) ? "tag" : "tag bad", name));
    });
    const left = make("div");
    left.append(marked(make("p", "text"), row[1], query));
    const right = make("div");
    for (const text of row[2]) right.append(marked(make("p", "text why"), text, query));
    if (!row[2].length) right.append(make("p", "none", "no rationale"));
    const labels = make("p", "labels");
    const agrees = columns.flags[n] & (1 << meta.flags.indexOf("agrees"));
    const pairs = [["gold", label(columns.gold[n]), ""], ["teacher", label(columns.teacher[n]), agrees ? "good" : "bad"]];
    for (const [name, value, tone] of pairs) {
      if (value === null) continue;
      labels.append(make("span", "name", name), marked(make("span", value !== null && columns.gold[n] >= 0 ? tone : ""), value, query), " \u2002 ");
    }
    right.append(labels);
    if (row[3]) right.append(make("p", "note", row[3]));
    for (const failure of row[4] || []) right.append(failureNote(failure, query));
    card.append(head, left, right);
    return card;
  };
  const failureNote = (failure, query) => {
    const box = make("div");
    const where = [failure.teacher, failure.sample === undefined ? "" : `sample ${failure.sample}`, failure.purpose].filter(Boolean);
    box.append(make("p", "note bad", [failure.reason, failure.detail].filter(Boolean).join(": ") + (where.length ? ` (${where.join(", ")})` : "")));
    if (failure.raw) box.append(marked(make("pre"), failure.raw, query));
    return box;
  };
  const failureCard = (failure, query) => {
    const card = make("article", "row");
    const head = make("header");
    head.append(marked(make("b"), failure.id || "", query), make("span", "tag bad", failure.reason));
    const left = make("div");
    left.append(marked(make("p", "text"), failure.input || "", query));
    card.append(head, left, failureNote(failure, query));
    return card;
  };

  const findFailures = async (state, turn) => {
    const found = [];
    const query = state.q.toLowerCase();
    for (let c = 0; c < meta.failureChunks; c++) {
      for (const failure of await chunk("failures", c)) {
        if (turn !== drawing) return null;
        if (state.reason && failure.reason !== state.reason) continue;
        if (query && ![failure.id, failure.input, failure.raw, failure.detail].join("\n").toLowerCase().includes(query)) continue;
        found.push(failure);
      }
    }
    return found;
  };

  const draw = async () => {
    const turn = ++drawing;
    const state = read();
    const rows = state.view !== "failures";
    for (const tab of document.querySelectorAll(".tabs button")) tab.setAttribute("aria-selected", String(tab.dataset.view === state.view));
    element("search").value = state.q;
    element("label").value = state.label;
    element("sort").value = state.sort;
    element("reason").value = state.reason;
    for (const id of ["label", "sort", "chips"]) element(id).hidden = !rows;
    element("reason").hidden = rows;
    for (const chip of document.querySelectorAll(".chip")) {
      const on = state.flags.split(",").includes(chip.dataset.flag);
      const not = state.flags.split(",").includes("-" + chip.dataset.flag);
      chip.setAttribute("aria-pressed", String(on || not));
      chip.classList.toggle("not", not);
    }
    const found = await (rows ? find(state, turn) : findFailures(state, turn));
    if (found === null || turn !== drawing) return;
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const page = Math.min(pages, Math.max(1, Number(state.page) || 1));
    const query = state.q.toLowerCase();
    const cards = [];
    for (const item of found.slice((page - 1) * PAGE, page * PAGE)) {
      cards.push(rows ? rowCard(item, (await chunk("rows", Math.floor(item / meta.chunk)))[item % meta.chunk], query) : failureCard(item, query));
    }
    if (turn !== drawing) return;
    element("list").replaceChildren(...cards);
    element("count").textContent = `${found.length.toLocaleString("en")} ${rows ? "rows" : "failures"}, page ${page} of ${pages.toLocaleString("en")}`;
    element("before").disabled = page <= 1;
    element("after").disabled = page >= pages;
    element("before").dataset.page = page - 1;
    element("after").dataset.page = page + 1;
    document.body.dataset.ready = String(turn);
    document.body.dataset.found = String(found.length);
  };

  const start = async () => {
    if (!("DecompressionStream" in window)) {
      element("list").textContent = "This browser is too old to unpack the rows (it has no DecompressionStream). The figures above are complete.";
      return;
    }
    columns = await unpack("columns");
    let typing = 0;
    element("search").addEventListener("input", (event) => {
      clearTimeout(typing);
      typing = setTimeout(() => write({ q: event.target.value }), 150);
    });
    for (const id of ["label", "sort", "reason"]) element(id).addEventListener("change", (event) => write({ [id]: event.target.value }));
    for (const tab of document.querySelectorAll(".tabs button")) tab.addEventListener("click", () => write({ view: tab.dataset.view }));
    for (const chip of document.querySelectorAll(".chip")) {
      // Three states: all rows, only those with the mark, only those without.
      chip.addEventListener("click", () => {
        const flags = read().flags.split(",").filter(Boolean);
        const flag = chip.dataset.flag;
        const rest = flags.filter((f) => f !== flag && f !== "-" + flag);
        if (flags.includes(flag)) rest.push("-" + flag);
        else if (!flags.includes("-" + flag)) rest.push(flag);
        write({ flags: rest.join(",") });
      });
    }
    for (const id of ["before", "after"]) {
      element(id).addEventListener("click", (event) => {
        write({ page: event.target.dataset.page });
        element("browse").scrollIntoView();
      });
    }
    window.addEventListener("hashchange", draw);
    await draw();
  };
  window.addEventListener("error", (event) => { document.body.dataset.error = event.message; });
  window.addEventListener("unhandledrejection", (event) => { document.body.dataset.error = String(event.reason); });
  start();
})();
