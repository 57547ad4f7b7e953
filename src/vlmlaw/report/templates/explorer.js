"use strict";
// The budget explorer: prices the candidate cells, chooses among them as vlmlaw.laws.recommend does, and draws them.
(() => {
  const DATA = JSON.parse(document.getElementById("explorer-data").textContent);
  const FORMULA = "2N(Q+V+G)";
  const by = (id) => document.getElementById("x-" + id);

  // ---- numbers as Python prints them: exact decimals, ties to even

  // `exact` has all digits of a number, `cut` its first ones, `up` those rounded half up: the better, ties to even.
  function roundedText(exact, cut, up) {
    const rest = exact.slice(cut.length).replace(".", "");
    const isTie = /^50*$/.test(rest);
    return isTie && "02468".includes(cut.replace(".", "").slice(-1)) ? cut : up;
  }
  function fixed(x, digits) {  // format(x, ".<digits>f")
    const exact = x.toFixed(100);
    return roundedText(exact, exact.slice(0, exact.indexOf(".") + 1 + digits), x.toFixed(digits));
  }
  function general(x, digits) {  // format(x, ".<digits>g")
    if (x === 0) return "0";
    const [exact, power] = x.toExponential(100).split("e");
    const sign = x < 0 ? 1 : 0;
    const cut = exact.slice(0, sign + (digits > 1 ? digits + 1 : 1));
    const [up, upPower] = x.toExponential(digits - 1).split("e");
    const text = roundedText(exact, cut, up);
    const exponent = Number(text === up ? upPower : power);
    if (exponent >= -4 && exponent < digits) {
      const plainText = Number(text + "e" + exponent).toFixed(Math.max(digits - 1 - exponent, 0));
      return plainText.includes(".") ? plainText.replace(/\.?0+$/, "") : plainText;
    }
    const mantissa = text.includes(".") ? text.replace(/\.?0+$/, "") : text;
    return mantissa + "e" + (exponent < 0 ? "-" : "+") + String(Math.abs(exponent)).padStart(2, "0");
  }
  const g = (x) => general(x, 6);
  const percent = (x) => (x < 0 ? "" : "+") + fixed(100 * x, 2) + "%";

  // ---- the decision

  function flops(n, v, s) {
    const pass = DATA.pass_tokens === null ? Math.min(DATA.published_pass, s.q) : DATA.pass_tokens;
    const other = s.q + (DATA.question_pass ? pass : 0) + s.g;
    return 2 * 1e9 * n * (other + v) + DATA.vision_flops;
  }
  function candidates(suite, law, cost, s) {
    const cells = suite.n.map((n, i) => ({
      n, v: suite.v[i], size: suite.size[i], error: law.error[i], lower: law.lower[i], upper: law.upper[i],
      cost: cost.of ? cost.of[i] : flops(n, suite.v[i], s),
    }));
    return cells.filter((c) => c.cost !== null && c.n <= s.maxn && c.v <= s.maxv);
  }
  function recommend(cells, budget) {
    const ranked = [...cells].sort((a, b) => a.error - b.error || a.cost - b.cost);
    const affordable = ranked.filter((c) => c.cost <= budget * (1 + 1e-12));
    if (!affordable.length) return null;
    const best = affordable[0];
    const limit = best.error + DATA.tolerance * Math.abs(best.error) + 1e-12;
    const flat = [...new Set(affordable.filter((c) => c.error <= limit).map((c) => c.v))].sort((a, b) => a - b);
    const ofV = new Map();
    for (const c of affordable) if (!ofV.has(c.v)) ofV.set(c.v, c);
    const alternatives = [...ofV.values()].map((c) => ({...c, regret: c.error / best.error - 1}));
    const next = alternatives.find((c) => c.v !== best.v) || null;
    return {best, flat, next, alternatives: alternatives.sort((a, b) => a.v - b.v)};
  }
  function warnings(suite, law, cells, best) {
    const found = [], [least, most] = suite.errors, all = (f) => cells.map(f);
    if (!(best.error >= 0 && best.error <= 1))
      found.push(`the predicted error of ${general(best.error, 3)} is impossible: the law does not hold out there`);
    else if (!(best.error >= least && best.error <= most))
      found.push(`the predicted error lies outside the measured ones (${general(least, 3)} to ${general(most, 3)})`);
    const impossible = cells.filter((c) => !(c.error >= 0 && c.error <= 1)).length;
    if (impossible)
      found.push(`the law predicts an error below 0 or above 1 for ${impossible} of the ${cells.length} cells`);
    for (const [letter, value, [low, high]] of [["N", best.n, suite.sizes], ["V", best.v, suite.tokens]])
      if (!(value >= low && value <= high))
        found.push(`${letter} = ${g(value)} lies outside what was measured (${g(low)} to ${g(high)})`);
    if (best.n === Math.max(...all((c) => c.n)) && best.v > Math.min(...all((c) => c.v)))
      found.push("the largest size is taken: a larger model, not more tokens, is what the budget could use best");
    if (best.cost === Math.max(...all((c) => c.cost)))
      found.push("the budget buys the dearest cell there is; the rest of it is not used");
    return found;
  }

  // ---- controls and the address

  const NAMES = ["suite", "law", "cost", "budget", "q", "g", "maxn", "maxv"];
  function fill(select, options, wanted) {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    select.value = options.some(([value]) => value === wanted) ? wanted : options[0][0];
  }
  const suiteNow = () => DATA.suites[Number(by("suite").value)];
  const costNow = () => suiteNow().costs[Number(by("cost").value) - 1] || {name: FORMULA, unit: "FLOPs", of: null};
  const number = (id) => (by(id).value.trim() === "" ? NaN : Number(by(id).value));
  const cap = (id) => (by(id).value === "" ? Infinity : Number(by(id).value));
  const unique = (values) => [...new Set(values)].sort((a, b) => a - b);

  function fillControls(asked) {
    fill(by("suite"), DATA.suites.map((x, i) => [String(i), x.label]), asked.suite);
    by("suite").parentElement.hidden = DATA.suites.length < 2;
    const suite = suiteNow();
    fill(by("law"), suite.laws.map((x, i) => [x.name, x.name + (i ? "" : " (chosen)")]), asked.law);
    fill(by("cost"), [["0", FORMULA + ", FLOPs"], ...suite.costs.map((x, i) => [String(i + 1), x.name])], asked.cost);
    const nameOf = new Map(suite.n.map((n, i) => [n, suite.size[i]]));
    fill(by("maxn"), [["", "no limit"], ...unique(suite.n).map((n) => [String(n), nameOf.get(n)])], asked.maxn || "");
    fill(by("maxv"), [["", "no limit"], ...unique(suite.v).map((v) => [String(v), g(v)])], asked.maxv || "");
    by("q").value = asked.q ?? String(DATA.question_tokens);
    by("g").value = asked.g ?? String(DATA.generated_tokens);
    by("budget").value = asked.budget ?? middleBudget();
  }
  function span() {
    const s = {q: Math.max(number("q"), 0) || 0, g: Math.max(number("g"), 0) || 0, maxn: Infinity, maxv: Infinity};
    const costs = candidates(suiteNow(), suiteNow().laws[0], costNow(), s).map((c) => c.cost);
    return [Math.min(...costs), Math.max(...costs)];
  }
  // A budget of three digits, `share` of the way from the cheapest cell to the dearest; the last step buys every cell.
  function budgetAt(share) {
    const [low, high] = span();
    return share >= 1 ? String(high) : general(Math.max(low, low * (high / low) ** share), share > 0 ? 3 : 17);
  }
  const middleBudget = () => budgetAt(0.6);
  const settings = () => new URLSearchParams(NAMES.map((name) => [name, by(name).value]));

  // ---- the page

  const text = (id, value) => { by(id).textContent = value; };
  function cellOf(row) { return `${row.size}, V = ${g(row.v)}`; }

  function problem(s) {
    if (!(Number.isFinite(s.budget) && s.budget > 0))
      return `Budget: found "${by("budget").value}"; expected a number above 0, such as ${middleBudget()}.`;
    for (const [id, name] of [["q", "Question tokens"], ["g", "Generated tokens"]])
      if (!(Number.isFinite(s[id]) && s[id] >= 0))
        return `${name}: found "${by(id).value}"; expected a number, 0 or more.`;
    return "";
  }

  function update() {
    const suite = suiteNow(), cost = costNow(), law = suite.laws.find((x) => x.name === by("law").value);
    const s = {budget: number("budget"), q: number("q"), g: number("g"), maxn: cap("maxn"), maxv: cap("maxv")};
    text("unit", cost.unit);
    for (const id of ["q", "g"]) by(id).disabled = cost.of !== null;  // a measured cost has its own Q and G
    const [low, high] = span();
    if (s.budget > 0) by("slide").value = String(Math.round(100 * Math.log(s.budget / low) / Math.log(high / low)) || 0);
    by("slide").setAttribute("aria-valuetext", `${by("budget").value} ${cost.unit}`);
    const wrong = problem(s), cells = wrong ? [] : candidates(suite, law, cost, s);
    const found = wrong ? null : recommend(cells, s.budget);
    by("found").hidden = by("more").hidden = !found;
    if (found) show(found, {suite, law, cost, s, cells});
    else if (wrong) text("sentence", wrong);
    else if (!cells.length) text("sentence", "No cell with a known cost is left under these caps.");
    else text("sentence", `No cell costs ${general(s.budget, 3)} ${cost.unit} or less; the cheapest costs ` +
      `${general(Math.min(...cells.map((c) => c.cost)), 3)}.`);
    for (const id of ["budget", "q", "g"]) by(id).setAttribute("aria-invalid", String(!!wrong && !(s[id] >= (id === "budget" ? Number.MIN_VALUE : 0))));
    draw(found, {suite, cost, s, cells});
  }

  function show({best, flat, next, alternatives}, {suite, law, cost, s, cells}) {
    const unit = cost.unit, interval = `[${fixed(best.lower, 4)}, ${fixed(best.upper, 4)}]`;
    const flatText = flat.map(g).join(", ");
    const after = next === null ? "No other number of visual tokens is within the budget."
      : `The runner-up, ${cellOf(next)}, has an error ${fixed(100 * next.regret, 2)}% higher.`;
    text("sentence", `For ${general(s.budget, 3)} ${unit} an answer, deploy ${cellOf(best)}: predicted error ` +
      `${fixed(best.error, 4)} ${interval}. ` + (flat.length > 1 ? `V = ${flatText} are as good. ` : "") + after);
    text("cell", cellOf(best));
    text("error", `${fixed(best.error, 4)} ${interval}`);
    text("price", `${general(best.cost, 3)} of ${general(s.budget, 3)} ${unit}`);
    text("flat", `V = ${flatText}`);
    text("next", next === null ? "none" : `${cellOf(next)}, regret ${percent(next.regret)}`);
    text("formula", `${law.name}: ${law.formula}`);
    const item = (tag, value, kind) => Object.assign(document.createElement(tag), {textContent: value, className: kind || ""});
    by("warnings").replaceChildren(...warnings(suite, law, cells, best).map((w) => item("li", `Mind: ${w}.`)));
    by("alternatives").replaceChildren(...alternatives.map((c) => {
      const row = document.createElement("tr");
      row.className = c.v === best.v ? "mark" : "";
      row.append(item("td", g(c.v)), item("td", c.size, "left"), item("td", general(c.cost, 3)),
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
  function measuredPoints(suite, cells) {
    const priced = new Map(cells.map((c) => [c.n + "/" + c.v, c.cost]));
    const points = suite.measured.filter((m) => priced.has(m.n + "/" + m.v))
      .map((m) => ({cell: cellOf(m), error: m.error, cost: priced.get(m.n + "/" + m.v)}));
    return points.map((p) => ({...p, front: !points.some((o) => o.cost <= p.cost && o.error < p.error)}));
  }
  function draw(found, {suite, cost, s, cells}) {
    const css = getComputedStyle(document.documentElement), color = (name) => css.getPropertyValue("--" + name).trim();
    const x = {field: "cost", type: "quantitative", scale: {type: "log", nice: false}, title: `cost of an answer, ${cost.unit} (logarithmic)`,
      axis: {format: "~s", tickCount: 5, labelOverlap: true}};
    const y = {field: "error", type: "quantitative", scale: {zero: false}, title: "error (1 − score)"};
    const tip = [{field: "cell"}, {field: "error", format: ".4f"}, {field: "cost", format: ".3s"}];
    const names = ["law", "measured", "to deploy"];
    const named = (name) => ({datum: name, scale: {domain: names, range: [color("ink"), color("neutral"), color("accent")]}, title: null, legend: {orient: "top"}});
    const points = measuredPoints(suite, cells);
    const layer = [
      {data: {values: staircase(cells)}, mark: {type: "line", interpolate: "step-after", strokeWidth: 1.5}, encoding: {x, y, color: named("law")}},
      {data: {values: points.filter((p) => !p.front)}, mark: {type: "point", size: 45}, encoding: {x, y, color: named("measured"), tooltip: tip}},
      {data: {values: points.filter((p) => p.front)}, mark: {type: "point", size: 45, filled: true, opacity: 1}, encoding: {x, y, color: named("measured"), tooltip: tip}},
    ];
    if (found) {
      const values = [{...found.best, cell: cellOf(found.best)}];
      layer.push({data: {values: [{cost: s.budget}]}, mark: {type: "rule", strokeDash: [4, 4], color: color("accent")}, encoding: {x}});
      layer.push({data: {values}, mark: {type: "rule", strokeWidth: 3, opacity: 0.55}, encoding: {x, y: {...y, field: "lower"}, y2: {field: "upper"}, color: named("to deploy")}});
      layer.push({data: {values}, mark: {type: "point", filled: true, size: 120, opacity: 1}, encoding: {x, y, color: named("to deploy"), tooltip: tip}});
    }
    const axis = {labelColor: color("quiet"), titleColor: color("ink"), gridColor: color("grid"), domainColor: color("quiet"), tickColor: color("quiet"), titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12};
    vegaEmbed("#x-plot", {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height: 300, layer, background: null,
      description: "Error against cost. " + by("sentence").textContent, autosize: {type: "fit", contains: "padding"},
      config: {font: "system-ui, sans-serif", axis, view: {stroke: null}, legend: {labelColor: color("ink"), labelFontSize: 12, symbolStrokeWidth: 2}},
    }, {renderer: "svg", actions: false}).catch((error) => { by("plot").textContent = "The picture failed: " + error.message; });
  }

  // ---- events

  function fromAddress() {
    const asked = location.hash.includes("=") ? Object.fromEntries(new URLSearchParams(location.hash.slice(1))) : {};
    fillControls(asked);
    update();
  }
  function changed(event) {
    const id = event.target.id.slice(2), asked = Object.fromEntries(settings());
    if (id === "suite" || id === "cost") delete asked.budget;  // other cells, another unit
    if (id === "suite") delete asked.cost;
    if (id === "slide") asked.budget = budgetAt(Number(by("slide").value) / 100);
    if (id === "suite" || id === "cost") fillControls(asked);
    else if (id === "slide") by("budget").value = asked.budget;
    update();
    history.replaceState(null, "", "#" + settings());
  }
  const form = document.getElementById("explorer-form");
  form.hidden = document.getElementById("explorer-answer").hidden = false;
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { if (location.hash.includes("=")) fromAddress(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  fromAddress();
  if (location.hash.includes("=")) document.getElementById("explorer").scrollIntoView();
})();
