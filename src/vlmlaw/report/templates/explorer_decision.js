"use strict";
// The numbers of the budget explorer: prices candidate cells and chooses among them as vlmlaw.laws.recommend,
// recommend_among and Blend do, and prints numbers as Python does. It knows nothing of the page.
const Decision = (DATA) => {

  // ---- numbers as Python prints them: exact decimals, ties to even

  // `exact` has all digits of a number, `cut` its first ones, `up` those rounded half up: the better, ties to even.
  function roundedText(exact, cut, up) {
    const rest = exact.slice(cut.length).replace(".", "");
    const isTie = /^50*$/.test(rest);
    return isTie && "02468".includes(cut.replace(".", "").slice(-1)) ? cut : up;
  }
  function fixed(x, digits) {  // format(x, ".<digits>f")
    if (x === null) return "nan";  // an end of an interval that is not finite
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
  function size(n) {  // vlmlaw.laws.cells.format_size: N, in billions, with its unit
    let [scale, unit] = n >= 0.9995 ? [1, "B"] : n >= 0.9995 * 1e-3 ? [1e-3, "M"] : [1e-6, "k"];
    if (unit === "M" && n >= 0.1) [scale, unit] = [1, "B"];
    return general(n / scale, 4) + " " + unit;
  }
  const percent = (x) => (x < 0 ? "" : "+") + fixed(100 * x, 2) + "%";

  // ---- the decision

  function flops(n, v, s, terms) {
    const pass = terms.pass_tokens === null ? Math.min(DATA.published_pass, s.q) : terms.pass_tokens;
    const other = s.q + (terms.question_pass ? pass : 0) + s.g;
    return 2 * 1e9 * n * (other + v) + terms.vision_flops;
  }

  // The first counted law of a suite in the report's order. Where all of its laws count, it is the report's choice, whose
  // interval includes the choice; else it is that law alone, as with `--law NAME`.
  function lawOf(suite, counted) {
    const first = suite.laws.findIndex((law) => counted.includes(law.name));
    if (first < 0) return null;
    return suite.laws.every((law) => counted.includes(law.name)) ? suite.report : suite.laws[first];
  }
  // What the counted suites of a series predict together, the weighted mean of their laws; a string says what it lacks.
  function blend(series, s) {
    const used = s.weights.map((weight, i) => ({weight, i, suite: series.suites[i]})).filter((x) => x.weight > 0);
    const total = used.reduce((sum, x) => sum + x.weight, 0), parts = [];
    for (const {weight, i, suite} of used) {
      const law = suite && lawOf(suite, s.laws);
      if (!law) return `no ${suite ? "counted " : ""}law of ${DATA.suites[i]}`;
      parts.push({suite, law, weight: weight / total, label: DATA.suites[i]});
    }
    const column = (parts.length === 1 ? parts[0].suite.costs : series.costs).find((x) => x.name === s.cost);
    if (s.cost !== "" && !column) return `no column ${s.cost}`;
    const mean = (i, name) => (parts.length === 1 || parts.some((p) => p.law[name][i] === null) ? parts[0].law[name][i]
      : parts.reduce((sum, p) => sum + p.weight * p.law[name][i], 0));
    const [sizes, tokens] = ["sizes", "tokens"].map((name) => new Set(parts.flatMap((p) => p.suite.candidates[name])));
    const cells = series.n.map((n, i) => ({
      n, v: series.v[i], size: series.size[i], series: series.label,
      error: mean(i, "error"), lower: mean(i, "lower"), upper: mean(i, "upper"),
      cost: column ? column.of[i] : flops(n, series.v[i], s, series.cost),
    })).filter((c) => sizes.has(c.n) && tokens.has(c.v) && c.cost !== null);
    const ends = (name) => [Math.min(...parts.map((p) => p.suite[name][0])), Math.max(...parts.map((p) => p.suite[name][1]))];
    const description = parts.length === 1 ? `${parts[0].law.name}: ${parts[0].law.formula}`
      : parts.map((p) => `${general(p.weight, 2)} ${p.label} (${p.law.name})`).join(" + ");
    return {label: series.label, cells, parts, description, errors: ends("errors"), sizes: ends("sizes"), tokens: ends("tokens")};
  }
  const within = (cells, s) => cells.filter((c) => c.n <= s.maxn && c.v <= s.maxv);

  function recommend(cells, budget) {
    const ranked = [...cells].sort((a, b) => a.error - b.error || a.cost - b.cost);
    const affordable = ranked.filter((c) => c.cost <= budget * (1 + 1e-12));
    if (!affordable.length) return null;
    const best = affordable[0];
    const limit = best.error + DATA.tolerance * Math.abs(best.error) + 1e-12;
    const flat = [...new Set(affordable.filter((c) => c.error <= limit).map((c) => c.v))].sort((a, b) => a - b);
    const ofV = new Map();
    for (const c of affordable) if (!ofV.has(c.v)) ofV.set(c.v, c);
    return {best, flat, alternatives: [...ofV.values()]};
  }
  // The best of all counted series: of the least error, then the cheaper, then the first.
  function recommendAmong(blends, s) {
    const found = blends.map((of) => ({of, ...recommend(of.cells, s.budget)})).filter((x) => x.best);
    if (!found.length) return null;
    const order = (a, b) => a.best.error - b.best.error || a.best.cost - b.best.cost;
    const {of, best, flat} = [...found].sort(order)[0];
    const alternatives = found.flatMap((x) => x.alternatives).map((c) => ({...c, regret: c.error / best.error - 1}));
    const others = alternatives.filter((c) => c.v !== best.v || c.series !== best.series);
    const next = others.length ? others.reduce((a, b) => (b.error < a.error ? b : a)) : null;
    return {of, best, flat, next, alternatives};
  }
  function warnings({of, best}) {
    const found = [], {cells} = of, [least, most] = of.errors, all = (f) => cells.map(f);
    if (!(best.error >= 0 && best.error <= 1))
      found.push(`the predicted error of ${general(best.error, 3)} is impossible: the law does not hold out there`);
    else if (!(best.error >= least && best.error <= most))
      found.push(`the predicted error lies outside the measured ones (${general(least, 3)} to ${general(most, 3)})`);
    const impossible = cells.filter((c) => !(c.error >= 0 && c.error <= 1)).length;
    if (impossible)
      found.push(`the law predicts an error below 0 or above 1 for ${impossible} of the ${cells.length} cells`);
    for (const [letter, value, [low, high], write] of [["N", best.n, of.sizes, size], ["V", best.v, of.tokens, g]])
      if (!(value >= low && value <= high))
        found.push(`${letter} = ${write(value)} lies outside what was measured (${write(low)} to ${write(high)})`);
    if (best.n === Math.max(...all((c) => c.n)) && best.v > Math.min(...all((c) => c.v)))
      found.push("the largest size is taken: a larger model, not more tokens, is what the budget could use best");
    if (best.cost === Math.max(...all((c) => c.cost)))
      found.push("the budget buys the dearest cell there is; the rest of it is not used");
    return found;
  }
  // What each counted law would deploy by itself, and what the deployed cell costs in error if that law is the true one.
  function byLaw(series, s, best) {
    return s.laws.map((name) => {
      const blends = series.map((one) => blend(one, {...s, laws: [name]})).filter((x) => typeof x !== "string")
        .map((of) => ({...of, cells: within(of.cells, s)}));
      const found = recommendAmong(blends, s);
      if (!found) return null;
      const same = blends.flatMap((of) => of.cells).find((c) => c.series === best.series && c.n === best.n && c.v === best.v);
      return {name, best: found.best, regret: same ? same.error / found.best.error - 1 : null};
    }).filter(Boolean);
  }
  return {fixed, general, g, percent, blend, within, recommendAmong, warnings, byLaw};
};
