// The budget explorer's controls, sentence, tables and picture; its numbers come from explorer_decision.js.
(() => {
  const DATA = JSON.parse(document.getElementById("explorer-data").textContent);
  const FORMULA = "2N(Q+V+G)";
  const by = (id) => document.getElementById("x-" + id), form = document.getElementById("explorer-form");
  const {fixed, general, g, percent, blend, within, recommendAmong, warnings, byLaw} = Decision(DATA);

  // ---- controls and the address

  const NAMES = ["suite", "cost", "budget", "q", "g", "maxn", "maxv"], SEVERAL = "several";
  const LAWS = [...new Set(DATA.series.flatMap((one) => one.suites.flatMap((suite) => (suite ? suite.laws.map((law) => law.name) : []))))];
  const SHOWN = (name) => DATA.series.length > 1 && name ? ` (${name})` : "";
  function fill(select, options, wanted) {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    select.value = options.some(([value]) => value === wanted) ? wanted : options[0][0];
  }
  const number = (id) => (by(id).value.trim() === "" ? NaN : Number(by(id).value));
  const cap = (id) => (by(id).value === "" ? Infinity : Number(by(id).value));
  const unique = (values) => [...new Set(values)].sort((a, b) => a - b);
  const unitOf = (cost) => (cost === "" || cost.toLowerCase().endsWith("flops") ? "FLOPs" : cost);
  const counted = () => DATA.series.filter((_, i) => DATA.series.length === 1 || by("c" + i).checked);
  const weights = () => DATA.suites.map((_, i) => (by("suite").value === SEVERAL ? number("w" + i) : Number(by("suite").value === String(i))));
  const settings = () => ({
    budget: number("budget"), q: number("q"), g: number("g"), maxn: cap("maxn"), maxv: cap("maxv"),
    laws: LAWS.filter((_, i) => by("l" + i).checked), cost: by("cost").value, weights: weights(),
  });

  function control(tag, id, label, attributes) {
    const element = Object.assign(document.createElement(tag), {id: "x-" + id, ...attributes});
    const around = Object.assign(document.createElement("label"), {htmlFor: element.id});
    around.append(...(attributes.type === "checkbox" ? [element, " " + label] : [label + " ", element]));
    return around;
  }
  function makeControls() {
    by("weights").append(...DATA.suites.map((name, i) => control("input", "w" + i, name, {type: "text", inputMode: "decimal", value: "1"})));
    by("series").append(...DATA.series.map((one, i) => control("input", "c" + i, one.label || "this table", {type: "checkbox", checked: i === 0 || (DATA.several && one.suites[0] !== null)})));
    by("laws").append(...LAWS.map((name, i) => control("input", "l" + i, name, {type: "checkbox", checked: true})));
    by("laws").hidden = LAWS.length < 2;
    by("series").hidden = DATA.series.length < 2;
    by("suite").parentElement.hidden = DATA.suites.length < 2;
  }
  function fillControls(asked) {
    const several = DATA.suites.length > 1 ? [[SEVERAL, "several, by weight"]] : [];
    fill(by("suite"), [...DATA.suites.map((label, i) => [String(i), label]), ...several], asked.suite);
    DATA.suites.forEach((_, i) => { if ("w" + i in asked) by("w" + i).value = asked["w" + i]; });
    const ticked = "c" in asked ? asked.c.split(",") : null;
    if (ticked) DATA.series.forEach((_, i) => { by("c" + i).checked = ticked.includes(String(i)); });
    const laws = "law" in asked ? asked.law.split(",") : LAWS;  // an empty list is one, too
    LAWS.forEach((name, i) => { by("l" + i).checked = laws.includes(name); });
    fillChoices(asked);
    by("q").value = asked.q ?? String(DATA.question_tokens);
    by("g").value = asked.g ?? String(DATA.generated_tokens);
    by("budget").value = asked.budget ?? middleBudget();
  }
  // The laws, costs, sizes and token counts that the counted suites and series have.
  function fillChoices(asked) {
    const series = counted(), use = weights();
    by("weights").hidden = by("suite").value !== SEVERAL;
    DATA.series.forEach((one, i) => { by("c" + i).disabled = !one.suites.some((suite, j) => suite && use[j] > 0); });
    const suites = series.flatMap((one) => one.suites.filter((suite, i) => suite && use[i] > 0));
    LAWS.forEach((name, i) => { by("l" + i).disabled = !suites.some((suite) => suite.laws.some((law) => law.name === name)); });
    const costs = [...new Set([...suites, ...series].flatMap((one) => one.costs.map((cost) => cost.name)))];
    fill(by("cost"), [["", FORMULA + ", FLOPs"], ...costs.map((name) => [name, name])], asked.cost);
    const sizes = new Map();
    for (const one of series) one.n.forEach((n, i) => sizes.set(n, new Set([...(sizes.get(n) || []), one.size[i]])));
    fill(by("maxn"), [["", "no limit"], ...unique(sizes.keys()).map((n) => [String(n), [...sizes.get(n)].join(" / ")])], asked.maxn || "");
    fill(by("maxv"), [["", "no limit"], ...unique(series.flatMap((one) => one.v)).map((v) => [String(v), g(v)])], asked.maxv || "");
  }
  const ticked = () => DATA.series.map((_, i) => i).filter((i) => by("c" + i).checked).join(",");
  // Where nothing that is ticked has a law of the suites that weigh, tick what has.
  function tickSome() {
    const use = weights(), has = (one) => one.suites.every((suite, i) => suite || !(use[i] > 0));
    if (!counted().some(has)) DATA.series.forEach((one, i) => { if (DATA.series.length > 1) by("c" + i).checked = has(one); });
  }
  const blendsNow = (s) => counted().map((one) => ({label: one.label, found: blend(one, s)}));
  function span() {
    const s = {...settings(), q: Math.max(number("q"), 0) || 0, g: Math.max(number("g"), 0) || 0};
    const costs = blendsNow(s).flatMap(({found}) => (typeof found === "string" ? [] : found.cells.map((c) => c.cost)));
    return costs.length ? [Math.min(...costs), Math.max(...costs)] : [1, 1];
  }
  // A budget of three digits, `share` of the way from the cheapest cell to the dearest. The first buys the cheapest, the
  // last every cell.
  function budgetAt(share) {
    const [low, high] = span();
    if (share >= 1) return String(high);
    const text = general(low * (high / low) ** share, 3);
    return share > 0 && Number(text) >= low ? text : general(low, 17);  // three digits of it may be below the cheapest
  }
  const middleBudget = () => budgetAt(0.6);
  function address() {
    const now = new URLSearchParams(NAMES.map((name) => [name, by(name).value]));
    if (by("suite").value === SEVERAL) DATA.suites.forEach((_, i) => now.set("w" + i, by("w" + i).value));
    if (DATA.series.length > 1) now.set("c", ticked());
    const laws = settings().laws;
    if (laws.length < LAWS.length) now.set("law", laws.join(","));
    return now;
  }

  // ---- the page

  const text = (id, value) => { by(id).textContent = value; };
  function cellOf(row) { return `${row.size}, V = ${g(row.v)}${SHOWN(row.series)}`; }

  function problem(s) {
    if (!(Number.isFinite(s.budget) && s.budget > 0))
      return ["budget", `Budget: found "${by("budget").value}"; expected a number above 0, such as ${middleBudget()}.`];
    for (const [id, name] of [["q", "Question tokens"], ["g", "Generated tokens"]])
      if (!(Number.isFinite(s[id]) && s[id] >= 0))
        return [id, `${name}: found "${by(id).value}"; expected a number, 0 or more.`];
    const i = s.weights.findIndex((weight) => !(Number.isFinite(weight) && weight >= 0));
    if (i >= 0) return ["w" + i, `Weight of ${DATA.suites[i]}: found "${by("w" + i).value}"; expected a number, 0 or more.`];
    if (!s.weights.some((weight) => weight > 0)) return ["w0", "Every weight is 0; expected one above 0."];
    if (!counted().length) return ["c0", "Nothing is ticked that could be chosen; expected one or more."];
    if (!s.laws.length) return ["l0", "No law is ticked; expected one or more."];
    return null;
  }
  function nothing(blends, s, unit) {
    const cells = blends.flatMap((of) => of.cells);
    if (!blends.length) return "Nothing that is ticked has a counted law of every suite that weighs; choose other suites, laws or costs.";
    if (!cells.length) return "No cell with a known cost is left under these caps.";
    const least = Math.min(...cells.map((c) => c.cost));
    const digits = [3, 6].find((n) => general(s.budget, n) !== general(least, n)) || 17;
    return `No cell costs ${general(s.budget, digits)} ${unit} or less; the cheapest costs ${general(least, digits)}.`;
  }

  function update() {
    const s = settings(), unit = unitOf(s.cost), wrong = problem(s);
    text("unit", unit);
    for (const id of ["q", "g"]) by(id).disabled = s.cost !== "";  // a measured cost has its own Q and G
    const [low, high] = span();
    if (s.budget > 0) by("slide").value = String(Math.round(100 * Math.log(s.budget / low) / Math.log(high / low)) || 0);
    by("slide").setAttribute("aria-valuetext", `${by("budget").value} ${unit}`);
    for (const input of form.querySelectorAll("input")) {
      const isWrong = !!wrong && input.id === "x-" + wrong[0];
      input.setAttribute("aria-invalid", String(isWrong));
      if (isWrong) input.setAttribute("aria-describedby", "x-sentence"); else input.removeAttribute("aria-describedby");
    }
    const all = wrong ? [] : blendsNow(s), lacks = all.filter((x) => typeof x.found === "string");
    const blends = all.filter((x) => typeof x.found !== "string").map(({found}) => ({...found, cells: within(found.cells, s)}));
    const found = wrong ? null : recommendAmong(blends, s);
    by("found").hidden = by("more").hidden = !found;
    const left = lacks.map(({label, found: why}) => `${label} has ${why} and is left out`);
    if (found) show(found, s, unit, left);
    else text("sentence", wrong ? wrong[1] : nothing(blends, s, unit));
    draw(found, blends, s, unit);
  }

  function show(found, s, unit, left) {
    const {of, best, flat, next, alternatives} = found, interval = `[${fixed(best.lower, 4)}, ${fixed(best.upper, 4)}]`;
    const flatText = flat.map(g).join(", ");
    const after = next === null ? "Nothing else is within the budget."
      : `The runner-up, ${cellOf(next)}, has an error ${fixed(100 * next.regret, 2)}% higher.`;
    text("sentence", `For ${general(s.budget, 3)} ${unit} an answer, deploy ${cellOf(best)}: predicted error ` +
      `${fixed(best.error, 4)} ${interval}. ` + (flat.length > 1 ? `V = ${flatText} are as good. ` : "") + after);
    text("cell", cellOf(best));
    text("error", `${fixed(best.error, 4)} ${interval}`);
    text("price", `${general(best.cost, 3)} of ${general(s.budget, 3)} ${unit}`);
    text("flat", `V = ${flatText}`);
    text("next", next === null ? "none" : `${cellOf(next)}, regret ${percent(next.regret)}`);
    text("formula", of.description);
    const item = (tag, value, kind) => Object.assign(document.createElement(tag), {textContent: value, className: kind || ""});
    by("warnings").replaceChildren(...[...warnings(found), ...left].map((w) => item("li", `Mind: ${w}.`)));
    by("by-law").hidden = s.laws.length < 2;
    by("lawrows").replaceChildren(...byLaw(counted(), s, best).map((law) => {
      const row = document.createElement("tr");
      row.append(item("td", law.name, "left"), item("td", cellOf(law.best), "left"), item("td", fixed(law.best.error, 4)),
        item("td", law.regret === null ? "no law" : percent(law.regret)));
      return row;
    }));
    by("whose").hidden = DATA.series.length < 2;
    const ordered = DATA.series.flatMap((one) => alternatives.filter((c) => c.series === one.label).sort((a, b) => a.v - b.v));
    by("alternatives").replaceChildren(...ordered.map((c) => {
      const row = document.createElement("tr");
      row.className = c.v === best.v && c.series === best.series ? "mark" : "";
      row.append(...(DATA.series.length > 1 ? [item("td", c.series, "left")] : []), item("td", g(c.v)), item("td", c.size, "left"), item("td", general(c.cost, 3)),
        item("td", fixed(c.error, 4)), item("td", percent(c.regret)));
      return row;
    }));
  }

  // ---- the picture

  function staircase(cells) {
    const steps = [];
    for (const c of [...cells].sort((a, b) => a.cost - b.cost || a.error - b.error))
      if (!steps.length || c.error < steps[steps.length - 1].error) steps.push({cost: c.cost, error: c.error});
    if (steps.length) steps.push({cost: Math.max(...cells.map((c) => c.cost)), error: steps[steps.length - 1].error});
    return steps;
  }
  // Measured errors of cells that have them for every counted suite, by weight as the laws are.
  function measuredPoints(blends) {
    const points = blends.flatMap((of) => of.cells.flatMap((c) => {
      const rows = of.parts.map((p) => p.suite.measured.find((m) => m.n === c.n && m.v === c.v));
      if (!rows.every(Boolean)) return [];
      return [{cell: cellOf(c), cost: c.cost, error: of.parts.reduce((sum, p, i) => sum + p.weight * rows[i].error, 0)}];
    }));
    return points.map((p) => ({...p, front: !points.some((o) => o.cost <= p.cost && o.error < p.error)}));
  }
  function draw(found, blends, s, unit) {
    const cells = blends.flatMap((of) => of.cells);
    const css = getComputedStyle(document.documentElement), color = (name) => css.getPropertyValue("--" + name).trim();
    const x = {field: "cost", type: "quantitative", scale: {type: "log", nice: false}, title: `cost of an answer, ${unit} (logarithmic)`,
      axis: {format: "~s", tickCount: 5, labelOverlap: true}};
    const y = {field: "error", type: "quantitative", scale: {zero: false}, title: "error (1 − score)"};
    const tip = [{field: "cell"}, {field: "error", format: ".4f"}, {field: "cost", format: ".3s"}];
    const names = ["law", "measured", "to deploy"];
    const scale = {domain: names, range: [color("ink"), color("neutral"), color("accent")]};
    const named = (name) => ({datum: name, scale, title: null, legend: {orient: "top"}});
    const points = measuredPoints(blends);
    const layer = [
      {data: {values: staircase(cells)}, mark: {type: "line", interpolate: "step-after", strokeWidth: 1.5}, encoding: {x, y, color: named("law")}},
      {data: {values: points.filter((p) => !p.front)}, mark: {type: "point", size: 45}, encoding: {x, y, color: named("measured"), tooltip: tip}},
      {data: {values: points.filter((p) => p.front)}, mark: {type: "point", size: 45, filled: true, opacity: 1}, encoding: {x, y, color: named("measured"), tooltip: tip}},
    ];
    if (found) {
      const values = [{...found.best, cell: cellOf(found.best)}];
      const asGood = found.alternatives.filter((c) => c.series === found.best.series && found.flat.includes(c.v));
      layer.push({data: {values: asGood.map((c) => ({...c, cell: cellOf(c)}))}, mark: {type: "point", size: 120, opacity: 1}, encoding: {x, y, color: named("to deploy"), tooltip: tip}});
      layer.push({data: {values: [{cost: s.budget}]}, mark: {type: "rule", strokeDash: [4, 4], color: color("accent")}, encoding: {x}});
      layer.push({data: {values}, mark: {type: "rule", strokeWidth: 3, opacity: 0.55}, encoding: {x, y: {...y, field: "lower"}, y2: {field: "upper"}, color: named("to deploy")}});
      layer.push({data: {values}, mark: {type: "point", filled: true, size: 120, opacity: 1}, encoding: {x, y, color: named("to deploy"), tooltip: tip}});
    }
    const axis = {labelColor: color("quiet"), titleColor: color("ink"), gridColor: color("grid"), domainColor: color("quiet"), tickColor: color("quiet"), titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 13};
    vegaEmbed("#x-plot", {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height: 300, layer, background: null,
      description: "Error against cost. " + by("sentence").textContent, autosize: {type: "fit", contains: "padding"},
      config: {font: "system-ui, sans-serif", axis, view: {stroke: null}, legend: {labelColor: color("ink"), symbolStrokeWidth: 2, labelFontSize: 13}},
    }, {renderer: "svg", actions: false}).catch((error) => { by("plot").textContent = "The picture failed: " + error.message; });
  }

  // ---- events

  function fromAddress() {
    const asked = location.hash.includes("=") ? Object.fromEntries(new URLSearchParams(location.hash.slice(1))) : {};
    fillControls(asked);
    update();
  }
  function changed(event) {
    const id = event.target.id.slice(2), asked = Object.fromEntries(address());
    if (id === "suite" || id === "cost") delete asked.budget;  // other cells, another unit
    if (id === "suite") delete asked.cost;
    if (id === "suite") tickSome();
    if (id === "suite" || id === "cost") fillControls(Object.assign(asked, DATA.series.length > 1 && {c: ticked()}));
    else if (id === "slide") by("budget").value = budgetAt(Number(by("slide").value) / 100);
    else if (/^[clw]\d+$/.test(id)) fillChoices(asked);
    update();
    history.replaceState(null, "", "#" + address());
  }
  makeControls();
  form.hidden = document.getElementById("explorer-answer").hidden = false;
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { if (location.hash.includes("=")) fromAddress(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  fromAddress();
  if (location.hash.includes("=")) document.getElementById("explorer").scrollIntoView();
})();

// A table that is wider than its place can be scrolled by keyboard, and says what it is; one that fits is no stop. Without
// this script every table is one.
addEventListener("DOMContentLoaded", () => {
  const adjust = (box) => {
    const wide = box.scrollWidth > box.clientWidth + 1, caption = box.querySelector("caption");
    const name = (caption ? caption.textContent + ", " : "") + "table that scrolls sideways";
    for (const [key, value] of Object.entries({tabindex: "0", role: "region", "aria-label": name})) {
      if (wide) box.setAttribute(key, value); else box.removeAttribute(key);
    }
  };
  for (const box of document.querySelectorAll(".scroll")) {
    adjust(box);  // an observer does not report what is hidden
    new ResizeObserver(() => adjust(box)).observe(box);
  }
});
