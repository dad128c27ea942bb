"use strict";
// The page's only script: the table of samples, the labels that people give, and what a pointer finds on a plot.
// Texts of the corpus come from #page-data and go in as textContent or as values of attributes, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const AT_ONCE = 100; // rows of the table that are drawn before someone asks for more
  const PREVIEW = 220; // characters of a conversation in a row
  const byId = (id) => document.getElementById(id);

  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function button(words, press, attributes = {}) {
    const made = el("button", { type: "button", ...attributes }, words);
    made.addEventListener("click", press);
    return made;
  }

  // --- numbers -------------------------------------------------------------------------------------------------------

  function three(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e9) return value.toExponential(2);
    if (size >= 999.5) return Math.round(value).toLocaleString("en");
    return size < 1e-5 ? value.toExponential(2) : value.toPrecision(3);
  }

  function inWords(value, unit) {
    if (value === null || value === undefined) return "–";
    if (unit === "share") {
      const percent = 100 * value; // 100 % only where it is all
      return `${percent > 99 && percent < 100 ? Math.min(percent, 99.99).toFixed(2) : three(percent)} %`;
    }
    return unit === "count" ? value.toLocaleString("en") : three(value);
  }

  // --- labels --------------------------------------------------------------------------------------------------------

  const KEPT_AS = `tamis labels of ${data.run}`;
  const labels = new Map();
  let stored = true;
  let unsaved = false;
  let others = []; // labels of samples that this page does not have, or of other texts under their ids

  // What the browser keeps: [sample id, whether it is harmful, digest of its text]. Other tabs write there, too.
  function recall() {
    if (!stored) return;
    try {
      const kept = JSON.parse(localStorage.getItem(KEPT_AS) || "[]");
      const digests = new Map(data.samples.map((sample) => [sample.id, sample.h || ""]));
      const own = ([id, harmful, digest]) => typeof harmful === "boolean" && digests.has(id) && digests.get(id) === digest;
      others = kept.filter((label) => !own(label));
      labels.clear();
      for (const [id, harmful] of kept.filter(own)) labels.set(id, harmful);
    } catch {
      stored = false; // a browser may forbid it
    }
  }

  function remember() {
    try {
      const own = [...labels].map(([id, harmful]) => [id, harmful, data.samples[position.get(id)].h || ""]);
      localStorage.setItem(KEPT_AS, JSON.stringify([...others, ...own]));
    } catch {
      stored = false;
    }
  }

  function setLabel(sample, harmful) {
    const taken = labels.get(sample.id) === harmful; // pressed again: it is taken away
    recall();
    if (taken) labels.delete(sample.id);
    else labels.set(sample.id, harmful);
    unsaved = true;
    remember();
    showLabels();
  }

  function showLabels() {
    const harmful = [...labels.values()].filter(Boolean).length;
    const where = stored ? "Kept in this browser until you download them." : "Not kept when this page closes: download them.";
    byId("labelled").textContent = labels.size
      ? `${labels.size.toLocaleString("en")} labelled: ${harmful} harmful, ${labels.size - harmful} fine. ${where}`
      : "No sample is labelled yet.";
    byId("save").disabled = byId("forget").disabled = labels.size === 0;
    for (const [id, parts] of drawn) parts.mark(labels.get(id));
    if (detail) detail.mark(labels.get(detail.sample.id));
  }

  // A line for each label, in the form that `tamis evaluate --labels` reads.
  function labelLines() {
    const lines = data.samples
      .filter((sample) => labels.has(sample.id))
      .map((sample) => ({
        harmful: labels.get(sample.id),
        sample_id: sample.id,
        ...(sample.h ? { text_digest: sample.h } : {}),
        shown_as: sample.g.map((group) => data.groups[group]).join("; "),
      }));
    return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  }

  function download() {
    const address = URL.createObjectURL(new Blob([labelLines()], { type: "application/jsonl" }));
    const link = el("a", { href: address, download: "labels.jsonl" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    unsaved = false;
  }

  // --- which samples are shown, in which order -----------------------------------------------------------------------

  const position = new Map(data.samples.map((sample, place) => [sample.id, place]));
  const haystacks = [];
  let order = { column: 0, falling: true };
  let shown = [];
  let most = AT_ONCE;

  function text(sample) {
    if (sample.t) return sample.t.map((token) => (token.length > 2 ? token[0] : " ")).join("");
    return sample.m.map((message) => (message.length > 1 ? message[1] : "")).join("\n");
  }

  function haystack(sample) {
    const place = position.get(sample.id);
    if (haystacks[place] === undefined) {
      haystacks[place] = `${text(sample)}\n${data.sources[sample.s]}\n${sample.id}`.toLowerCase();
    }
    return haystacks[place];
  }

  function passes(sample, wanted) {
    if (wanted.decision && sample.d !== wanted.decision) return false;
    if (wanted.source && sample.s !== wanted.source - 1) return false;
    if (wanted.group === "labelled" && !labels.has(sample.id)) return false;
    if (wanted.group === "unlabelled" && labels.has(sample.id)) return false;
    if (/^\d+$/.test(wanted.group) && !sample.g.includes(Number(wanted.group))) return false;
    return wanted.words.every((word) => haystack(sample).includes(word));
  }

  function compared(one, other) {
    if (order.column === "place") return position.get(one.id) - position.get(other.id);
    const [a, b] = [one.v[order.column], other.v[order.column]];
    if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
    return (order.falling ? b - a : a - b) || position.get(one.id) - position.get(other.id);
  }

  function choose() {
    const wanted = {
      words: byId("words").value.toLowerCase().split(/\s+/).filter(Boolean),
      group: byId("group").value,
      decision: byId("decision").value,
      source: Number(byId("source").value),
    };
    shown = data.samples.filter((sample) => passes(sample, wanted)).sort(compared);
    draw();
  }

  function sortBy(column, falling) {
    order = { column, falling };
    byId("order").value = column === "place" ? "place" : `${column} ${falling ? "falling" : "rising"}`;
    data.columns.forEach((_, number) => {
      const here = number === column;
      byId(`head-${number}`).setAttribute("aria-sort", here ? (falling ? "descending" : "ascending") : "none");
    });
    choose();
  }

  // --- the table -----------------------------------------------------------------------------------------------------

  const drawn = new Map(); // sample id -> its row in the table
  let detail = null; // the open conversation

  function draw() {
    drawn.clear();
    const rows = shown.slice(0, most).map(drawRow);
    byId("rows").replaceChildren(...rows);
    const all = data.samples.length.toLocaleString("en");
    byId("found").textContent = shown.length
      ? `${shown.length.toLocaleString("en")} of ${all} samples${shown.length > most ? `, the first ${most} are shown` : ""}`
      : `None of ${all} samples: take a filter away.`;
    byId("more").hidden = shown.length <= most;
    if (detail && drawn.has(detail.sample.id)) attach();
    else if (detail) {
      detail = null;
      setHash("");
    }
  }

  function preview(sample) {
    if (sample.t && sample.t.length) {
      const part = (answers) => sample.t.filter((token) => token.length > 2 && (token[1] !== null) === answers);
      const begin = (answers) => part(answers).map((token) => token[0]).join("").trim().slice(0, PREVIEW);
      return [el("span", { class: "asked" }, begin(false)), el("span", { class: "answered" }, begin(true))];
    }
    const said = (sample.m || []).filter((message) => message.length > 1 && message[1].trim());
    const asked = said.find((message) => message[0] === "user") || said[0];
    const answer = [...said].reverse().find((message) => message[0] === "assistant");
    const parts = [];
    if (asked) parts.push(el("span", { class: "asked" }, asked[1].trim().slice(0, PREVIEW)));
    if (answer && answer !== asked) parts.push(el("span", { class: "answered" }, answer[1].trim().slice(0, PREVIEW)));
    return parts.length ? parts : [el("span", { class: "left-out" }, "the text of this sample is not in the report")];
  }

  function drawRow(sample) {
    const open = button("", () => toggle(sample), { class: "open", "aria-expanded": "false" });
    open.append(...preview(sample));
    const label = el("td", { class: "label" });
    const numbers = data.columns.map((column, number) =>
      el("td", { class: `n${column.narrow ? "" : " wide"}` }, inWords(sample.v[number], column.unit)),
    );
    const row = el("tr", {});
    row.append(
      ...numbers,
      el("td", { class: "said", dir: "auto" }, open),
      el("td", { class: "wide source" }, el("bdi", {}, data.sources[sample.s])),
      el("td", {}, el("span", { class: `chip ${sample.d}` }, sample.d || "–")),
      label,
    );
    row.addEventListener("click", (event) => {
      if (!event.target.closest("button") && String(getSelection()) === "") toggle(sample);
    });
    const mark = (harmful) => {
      label.textContent = harmful === undefined ? "" : harmful ? "harmful" : "fine";
      label.className = `label ${label.textContent}`;
    };
    mark(labels.get(sample.id));
    drawn.set(sample.id, { row, open, mark });
    return row;
  }

  function toggle(sample) {
    if (detail && detail.sample === sample) close();
    else show(sample);
  }

  function close() {
    if (!detail) return;
    const parts = drawn.get(detail.sample.id);
    detail.row.remove();
    detail = null;
    if (parts) {
      parts.open.setAttribute("aria-expanded", "false");
      parts.row.classList.remove("opened");
      parts.open.focus({ preventScroll: true });
    }
    setHash("");
  }

  function show(sample, scroll = false) {
    if (detail) {
      detail.row.remove();
      const before = drawn.get(detail.sample.id);
      if (before) {
        before.open.setAttribute("aria-expanded", "false");
        before.row.classList.remove("opened");
      }
    }
    detail = drawDetail(sample);
    attach();
    setHash(`s=${encodeURIComponent(sample.id)}`);
    const { row, open } = drawn.get(sample.id);
    open.focus({ preventScroll: true });
    if (scroll) row.scrollIntoView({ block: "start" });
  }

  function attach() {
    const { row, open } = drawn.get(detail.sample.id);
    row.after(detail.row);
    row.classList.add("opened");
    open.setAttribute("aria-expanded", "true");
  }

  function drawDetail(sample) {
    const harmful = button("Harmful", () => setLabel(sample, true), { class: "harmful", "aria-keyshortcuts": "h" });
    const fine = button("Fine", () => setLabel(sample, false), { class: "fine", "aria-keyshortcuts": "f" });
    const link = el("a", { href: `#s=${encodeURIComponent(sample.id)}` }, "Link to this sample");
    const bar = el("div", { class: "bar-of-buttons" });
    if (data.kind === "samples") bar.append(el("span", { class: "asks" }, "Is it harmful?"), harmful, fine);
    bar.append(
      button("Previous", () => step(-1), { "aria-keyshortcuts": "k" }),
      button("Next", () => step(1), { "aria-keyshortcuts": "j" }),
      link,
    );
    const cell = el("td", { colspan: data.columns.length + 4 }, bar, ...(sample.t ? tokens(sample) : messages(sample)));
    const facts = el("dl", { class: "pairs" });
    const member = ["shown as", sample.g.map((group) => data.groups[group]).join("; ")];
    for (const [name, value] of [...sample.f, member]) {
      facts.append(el("div", {}, el("dt", {}, el("bdi", {}, name)), el("dd", {}, el("bdi", {}, value))));
    }
    cell.append(facts);
    const mark = (label) => {
      harmful.setAttribute("aria-pressed", String(label === true));
      fine.setAttribute("aria-pressed", String(label === false));
    };
    mark(labels.get(sample.id));
    return { sample, row: el("tr", { class: "detail" }, cell), mark };
  }

  const ROLES = ["system", "user", "assistant", "tool"];

  function messages(sample) {
    if (!sample.m.length) return [el("p", { class: "left-out" }, "The text of this sample is not in the report.")];
    return sample.m.map((message) => {
      if (message.length === 1) return el("p", { class: "left-out" }, `${message[0]} messages left out here`);
      const [role, words, left] = message;
      const made = el("div", { class: `message role-${ROLES.includes(role) ? role : "other"}` });
      made.append(el("p", { class: "role" }, el("bdi", {}, role)), el("div", { class: "text", dir: "auto" }, words));
      if (left) made.append(el("p", { class: "left-out" }, `${left.toLocaleString("en")} more characters left out`));
      return made;
    });
  }

  // --- tokens, coloured by their risk --------------------------------------------------------------------------------

  function tokens(sample) {
    if (!sample.t.length) return [el("p", { class: "left-out" }, "The text of this sample is not in the report.")];
    const box = el("div", { class: "text", dir: "auto" });
    for (const token of sample.t) {
      if (token.length === 2) {
        const [left, gone] = token;
        box.append(el("span", { class: "gap" }, `${left} tokens left out here, ${gone} of them discarded`));
        continue;
      }
      const [words, risk, gone] = token;
      if (risk === null) {
        box.append(el("span", { class: "prompt" }, words));
        continue;
      }
      const tip = `risk ${three(risk)}, ${gone ? "discarded" : "kept"}`;
      const made = el("span", { class: gone ? "token gone" : "token", "data-tip": tip }, words);
      const much = Math.min(100, (100 * Math.abs(risk)) / (data.scale || 1));
      made.style.backgroundColor = `color-mix(in srgb, var(${risk > 0 ? "--warm" : "--cool"}) ${much.toFixed(1)}%, transparent)`;
      box.append(made);
    }
    return [el("div", { class: "message tokens" }, box)];
  }

  // --- getting about -------------------------------------------------------------------------------------------------

  function step(by) {
    const at = detail ? shown.indexOf(detail.sample) : by > 0 ? -1 : 0; // with none open, only forwards
    const next = shown[at + by];
    if (!next) return;
    if (at + by >= most) {
      most += AT_ONCE;
      draw();
    }
    show(next, true);
  }

  function setHash(hash) {
    try {
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    } catch {
      // A page that is shown within another one has no address of its own.
    }
  }

  // A permalink is #s= and the sample's id.
  function follow() {
    if (!location.hash.startsWith("#s=")) return;
    let id;
    try {
      id = decodeURIComponent(location.hash.slice(3));
    } catch {
      return;
    }
    if (detail && detail.sample.id === id) return;
    const place = position.get(id);
    if (place === undefined) {
      byId("found").textContent = "The sample of this link is not in this report; scores/ has all of them.";
      byId("samples").scrollIntoView();
      return;
    }
    const sample = data.samples[place];
    if (!shown.includes(sample)) {
      for (const name of ["words", "group", "decision", "source"]) byId(name).value = "";
      choose();
    }
    if (shown.indexOf(sample) >= most) {
      most = Math.ceil((shown.indexOf(sample) + 1) / AT_ONCE) * AT_ONCE;
      draw();
    }
    show(sample, true);
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea, svg")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const keys = new Map([
      ["j", () => step(1)],
      ["k", () => step(-1)],
      ["/", () => byId("words").focus()],
      ["Escape", () => close()],
    ]);
    if (detail && data.kind === "samples") {
      keys.set("h", () => setLabel(detail.sample, true));
      keys.set("f", () => setLabel(detail.sample, false));
    }
    const act = keys.get(event.key);
    if (!act) return;
    event.preventDefault();
    if (event.repeat && "hf".includes(event.key)) return; // a key held down is one label
    act();
  }

  // --- what a pointer, or an arrow key, finds on a plot --------------------------------------------------------------

  const tip = el("div", { class: "tip", role: "status", hidden: "" });

  function tell(spot, x, y) {
    tip.textContent = spot.getAttribute("data-tip");
    tip.hidden = false;
    tip.style.left = "0"; // so that its width does not depend on where it was
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(x + 14, room))}px`;
    tip.style.top = `${y - tip.offsetHeight - 12 > 0 ? y - tip.offsetHeight - 12 : y + 18}px`;
  }

  let marked = null; // the part of a plot that the arrow keys have reached

  function tellMarked() {
    const box = marked.getBoundingClientRect();
    tell(marked, box.right, box.top + 40);
  }

  function onScroll() {
    if (marked) tellMarked();
    else tip.hidden = true;
  }

  function onPointer(event) {
    const spot = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (spot) tell(spot, event.clientX, event.clientY);
    else tip.hidden = true;
  }

  function withArrows(plot) {
    const spots = [...plot.querySelectorAll("[data-tip]")];
    if (!spots.length) return;
    let at = -1;
    const move = (to) => {
      if (marked) marked.classList.remove("on");
      at = to;
      marked = spots[at] || null;
      if (!marked) return;
      marked.classList.add("on");
      marked.scrollIntoView({ block: "nearest", inline: "nearest" });
      tellMarked();
    };
    plot.setAttribute("tabindex", "0");
    plot.addEventListener("keydown", (event) => {
      const to = { ArrowRight: Math.min(at + 1, spots.length - 1), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: spots.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      move(to);
    });
    plot.addEventListener("blur", () => {
      move(-1);
      tip.hidden = true;
    });
  }

  // --- the page ------------------------------------------------------------------------------------------------------

  function options(select, pairs) {
    select.append(...pairs.map(([value, words]) => el("option", { value }, words)));
  }

  function begin() {
    recall();
    document.body.append(tip);
    document.addEventListener("pointermove", onPointer);
    document.addEventListener("pointerdown", onPointer);
    document.addEventListener("scroll", onScroll, { passive: true, capture: true });
    document.querySelectorAll("svg.plot").forEach(withArrows);

    const inGroup = (group) => data.samples.filter((sample) => sample.g.includes(group)).length;
    options(byId("group"), [
      ["", "All samples"],
      ...data.groups.map((name, group) => [group, `${name} (${inGroup(group)})`]).filter((_, group) => inGroup(group)),
      ...(data.kind === "samples" ? [["labelled", "Labelled by you"], ["unlabelled", "Not labelled yet"]] : []),
    ]);
    options(byId("source"), [["", `Every ${data.source}`], ...data.sources.map((name, number) => [number + 1, name])]);
    options(byId("order"), [
      ...data.columns.flatMap(({ title }, number) => [
        [`${number} falling`, `${title}, highest first`],
        [`${number} rising`, `${title}, lowest first`],
      ]),
      ["place", "as they were chosen"],
    ]);
    byId("heads").prepend(
      ...data.columns.map(({ title, hint, narrow }, number) => {
        const press = () => sortBy(number, !(order.column === number && order.falling));
        return el("th", { scope: "col", id: `head-${number}`, class: `n${narrow ? "" : " wide"}`, title: hint }, button(title, press));
      }),
    );
    for (const name of ["group", "decision", "source"]) byId(name).addEventListener("change", () => { most = AT_ONCE; choose(); });
    byId("words").addEventListener("input", () => { most = AT_ONCE; choose(); });
    byId("order").addEventListener("change", () => {
      const [column, way] = byId("order").value.split(" ");
      sortBy(column === "place" ? column : Number(column), way === "falling");
    });
    byId("more").addEventListener("click", () => {
      most += AT_ONCE;
      draw();
    });
    byId("save").addEventListener("click", download);
    byId("forget").addEventListener("click", () => {
      if (!confirm(`Forget ${labels.size} labels?`)) return;
      recall();
      labels.clear();
      unsaved = false;
      remember();
      showLabels();
    });
    addEventListener("storage", (event) => {
      if (event.key !== KEPT_AS && event.key !== null) return; // null: all was cleared
      recall();
      showLabels();
    });
    addEventListener("hashchange", follow);
    addEventListener("keydown", onKey);
    addEventListener("beforeunload", (event) => {
      if (unsaved && !stored && labels.size) event.preventDefault();
    });
    byId("browser").hidden = false;
    sortBy(0, true);
    showLabels();
    follow();
  }

  begin();
})();
