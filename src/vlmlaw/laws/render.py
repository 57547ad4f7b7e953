"""Text for the terminal: the main result first, then short tables."""

from collections.abc import Sequence
from typing import Any

from vlmlaw.laws.blend import Blend
from vlmlaw.laws.cells import format_size
from vlmlaw.laws.costs import CostModel
from vlmlaw.laws.decision import Recommendation
from vlmlaw.laws.linter.values import Finding
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.table import ALL_KINDS

MAX_LAWS = 6


def render_analysis(result: dict[str, Any]) -> str:
    """Format the result of `analyse`: for each suite rho, V*(Q), the laws and the verdict."""
    provenance = result["provenance"]
    parts = [f"{provenance['source']}: {_count(provenance['n_rows'], 'row')}, {_count(len(result['fits']), 'fit')}"]
    parts += [_finding(Finding(**finding)) for finding in result["lint"]]
    if len(result["fits"]) > 1:
        parts.append(_indent(_side_by_side(result["fits"])))
    # One block for each suite; the kinds are in the table above and in the JSON file.
    parts += [_fit(fit) for fit in result["fits"] if fit["kind"] == ALL_KINDS or len(result["fits"]) == 1]
    parts += [_curve(axis) for axis in result.get("axes", ()) if axis["kind"] == ALL_KINDS or not result["fits"]]
    for skipped in result["skipped"]:
        group = "/".join(str(skipped[key]) for key in ("suite", "kind", "compressor") if skipped.get(key))
        parts.append(f"no law for {group}: {skipped['why']}")
    return "\n\n".join(parts)


def _side_by_side(fits: list[dict[str, Any]]) -> str:
    """A row for each suite and kind: law, rho, V* at the middle Q, R squared, and the error on the rows held out."""
    middle = fits[0]["v_star"][len(fits[0]["v_star"]) // 2]["question_tokens"] if fits[0]["v_star"] else None
    rows = []
    for fit in fits:
        star = next((row for row in fit["v_star"] if row["question_tokens"] == middle), None)
        held = fit["hold_out"]["mean_relative_error"] if fit["hold_out"] else None
        rows.append(
            [
                _title(fit),
                fit["law"],
                _estimate(fit["rho"]) if fit["rho"] else "",
                _ends(fit["rho"]) if fit["rho"] else "",
                f"{star['v_star']:.3g}" if star else "",
                f"{fit['r_squared']:.1%}",
                "" if held is None else f"{held:.1%}",
            ]
        )
    star_name = "V*" if middle is None else f"V*({middle:g})"
    return render_table(["suite", "law", "rho", "interval", star_name, "explained", "held out, off by"], rows)


def _title(fit: dict[str, Any]) -> str:
    parts = [fit["suite"], fit["kind"], fit.get("compressor", "")]
    return " / ".join(part for part in parts if part and part != ALL_KINDS) or "measured cells"


def _fit(fit: dict[str, Any]) -> str:
    title = _title(fit)
    lines = [f"── {title} " + "─" * max(3, 78 - len(title)), ""]
    if fit["rho"]:
        rho = fit["rho"]
        lines += [f"  rho = {_range(rho)}   ({rho['level']:.0%}, {rho['method']})", ""]
        if rho["law"] != fit["law"]:
            gap = rho["behind"]
            way = "" if gap is None else f"{abs(gap):.1f} AICc {'behind' if gap >= 0 else 'ahead of'} {fit['law']}"
            lines[-1:] = [f"  by {rho['law']}{way and f', {way}, which has no single rho'}", ""]
    lines.append(_indent(_v_star(fit)))
    lines += ["", *(_wrap(sentence) for sentence in fit["verdict"]), ""]
    lines.append(f"  law      {fit['law']}: {fit['formula']}")
    lines.append("  fit      " + ", ".join(_parameter(row) for row in fit["summary"]))
    if fit["rho"]:
        others = [f"{i['method']} {_ends(i)}" for i in fit["rho_intervals"][1:]]
        lines.append("  rho by   " + "; ".join(others))
    if any(row["parameter"] == "alpha" for row in fit["summary"]):
        lines.append("  given D  " + "; ".join(_given_d(row) for row in _some(fit["d_profile"])))
    lines += ["", _indent(_laws(fit))]
    return "\n".join(lines)


def _curve(curve: dict[str, Any]) -> str:
    """The error along the one axis of a table: the finding, the curve, and measured beside predicted errors."""
    title, axis = _title(curve), curve["axis"]
    lines = [f"── {title} " + "─" * max(3, 78 - len(title)), "", _wrap(curve["sentence"]), ""]
    lines.append(f"  curve    {curve['law']}: {curve['formula']}, x = ln {axis} from 0 to 1 over its range")
    others = [f"{name} {delta:.1f}" for name, delta in sorted(curve["delta"].items(), key=lambda item: item[1])]
    lines += [
        f"  ΔAICc    {', '.join(others)}",
        f"  noise    {curve['sigma']:.4f} (standard deviation of the error)",
        "",
    ]
    rows = [[f"{cell[axis]:g}", f"{cell['error']:.4f}", f"{cell['predicted']:.4f}"] for cell in curve["cells"]]
    lines.append(_indent(render_table([axis, "error", "predicted"], rows)))
    return "\n".join(lines)


def _given_d(row: dict[str, Any]) -> str:
    return f"D {row['D']:.3g}: alpha {row['alpha']:.3g}, beta {row['beta']:.3g}, rho {_number(row['rho'], '∞')}"


def _some(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to four rows of the profile of D, among them D = 0, in ascending order."""
    zero = next((i for i, row in enumerate(rows) if row["D"] == 0), 0)
    return [rows[i] for i in sorted({0, zero, (zero + len(rows)) // 2, len(rows) - 2}) if 0 <= i < len(rows)]


def _v_star(fit: dict[str, Any]) -> str:
    rows = []
    for row in fit["v_star"]:
        note = {"smallest": "fewest measured", "largest": "most measured", "": ""}[row["corner"]]
        ends = "" if row["lower"] in (None, row["upper"]) else f"[{row['lower']:.3g}, {row['upper']:.3g}]"
        flat = f"{row['flat_lower']:g} to {row['flat_upper']:g}"
        rows.append([f"{row['question_tokens']:g}", f"{row['v_star']:.4g}", ends, flat, note])
    return render_table(["Q", "V*", "interval", "as good", ""], rows)


def _laws(fit: dict[str, Any]) -> str:
    rows = []
    shown = fit["laws"][:MAX_LAWS]
    # The law in use and the form of the paper are always shown.
    shown += [law for law in fit["laws"][MAX_LAWS:] if law["law"] in (fit["law"], "power_d0")]
    for law in shown:
        delta = "" if law["delta"] is None else f"{law['delta']:.1f}"
        mark = "*" if law["law"] == fit["law"] else ""
        rho = "" if law["rho"] is None else f"{law['rho']:.3g}"
        rows.append([law["law"] + mark, delta, _number(law["loso"]), _number(law["loto"]), rho, law["gated"]])
    hidden = len(fit["laws"]) - len(shown)
    table = render_table(["law", "ΔAICc", "unseen N", "unseen V", "rho", "gated out"], rows)
    return table + (f"\n(and {hidden} more, in --json)" if hidden > 0 else "")


def _parameter(row: dict[str, Any]) -> str:
    se = "at its bound" if row["at_bound"] or row["se"] is None else f"± {row['se']:.2g}"
    return f"{row['parameter']} {row['estimate']:.5g} {se}"


def render_recommendation(
    chosen: Recommendation, fit: LawFit | Blend, *, cost: CostModel, source: str, findings: Sequence[Finding]
) -> str:
    """Format a recommendation: the cell to deploy, the alternatives by token count, and the warnings."""
    unit = chosen.unit or cost.name
    lines = [
        f"N = {format_size(chosen.n)}, V = {chosen.v:g}   predicted error {chosen.error:.4f} "
        f"[{chosen.error_lower:.4f}, {chosen.error_upper:.4f}]",
        "",
        f"  cost     {chosen.cost:.3g} of {chosen.budget:.3g} {unit} ({cost.name})",
        f"  as good  V = {', '.join(f'{v:g}' for v in chosen.flat)}",
        f"  law      {_name(fit)}, fitted to {len(fit.cells)} cells of {source}",
        "",
    ]
    rows = [
        [f"{row.V:g}", format_size(row.N), f"{row.cost:.3g}", f"{row.error:.4f}", f"{row.regret:+.2%}"]
        for row in chosen.alternatives.itertuples()
    ]
    lines.append(_indent(render_table(["V", "best N", "cost", "error", "regret"], rows)))
    lines += ["", *(_wrap(f"Mind: {warning}.") for warning in chosen.warnings)] if chosen.warnings else []
    lines += ["", *(_finding(finding) for finding in findings)] if findings else []
    return "\n".join(lines)


def _name(fit: LawFit | Blend) -> str:
    return fit.description if isinstance(fit, Blend) else fit.law.name


def render_regret(loss: dict[str, float], *, unit: str) -> str:
    """Format the regret of a choice: its loss against the best cell of the same cost."""
    cell = f"N = {format_size(loss['n'])}, V = {loss['v']:g}"
    choice = f"{cell} costs {loss['cost']:.3g} {unit}: predicted error {loss['error']:.4f}"
    if loss["absolute"] <= 0:
        return "\n" + _wrap(f"{choice}. No cell of that cost does better.")
    best = f"N = {format_size(loss['best_n'])}, V = {loss['best_v']:g} costs no more and has {loss['best_error']:.4f}"
    return "\n" + _wrap(f"{choice}. {best}: the choice loses {loss['absolute']:.4f} ({loss['relative']:.2%}).")


def render_findings(findings: Sequence[Finding], *, source: str, n_rows: int) -> str:
    """Format the findings of the linter, or say that there are none."""
    if not findings:
        return f"{source}: {n_rows} rows, nothing to report"
    n_errors = sum(finding.severity == "error" for finding in findings)
    n_warnings = len(findings) - n_errors
    head = f"{source}: {_count(n_rows, 'row')}, {_count(n_errors, 'error')}, {_count(n_warnings, 'warning')}"
    return "\n\n".join([head, *(_finding(finding) for finding in findings)])


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table with aligned columns; columns of numbers are aligned to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    right = [all(_is_number(row[k]) for row in rows if row[k]) for k in range(len(header))]
    lines = []
    for row in table:
        fields = [
            text.rjust(width) if at_right else text.ljust(width)
            for text, width, at_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(fields).rstrip())
    return "\n".join(lines)


def _finding(finding: Finding) -> str:
    return f"{finding.severity.upper()} {finding.code} · {finding.where}\n{_wrap(finding.text)}"


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _range(interval: dict[str, Any]) -> str:
    return f"{_estimate(interval)}  {_ends(interval)}"


def _estimate(interval: dict[str, Any]) -> str:
    """The estimate of rho; null stands for either infinity, and with a finite upper end for the negative one."""
    if interval["upper"] is not None and interval["upper"] <= 0:
        return "below 0"
    if interval.get("infinite"):
        return "∞" if interval["infinite"] > 0 else "-∞"
    return _number(interval["estimate"], "∞" if interval["upper"] is None else "-∞")


def _ends(interval: dict[str, Any]) -> str:
    if interval.get("infinite"):
        return "[∞, ∞]" if interval["infinite"] > 0 else "[-∞, -∞]"
    return f"[{_number(interval['lower'], '-∞')}, {_number(interval['upper'], '∞')}]"


def _number(value: float | None, missing: str = "") -> str:
    return missing if value is None else f"{value:.3g}"


def _is_number(text: str) -> bool:
    try:
        float(text.strip("[]%+ B"))
    except ValueError:
        return False
    return True


def _wrap(text: str, *, width: int = 88) -> str:
    import textwrap

    return textwrap.fill(text, width=width, initial_indent="  ", subsequent_indent="  ")


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
