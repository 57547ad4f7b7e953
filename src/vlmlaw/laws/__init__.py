"""Scaling laws of vision-language models: fit the error of measured cells, compare laws, and find the cell to deploy.

A table of measured cells comes in (a CSV file, a data frame or a published table). A fitted law goes out, with the
intervals of its parameters and of rho, the best number of visual tokens V*(Q), the frontier of cells over the cost of
an answer, and, by `analyse`, all of this as one JSON file. The package must know nothing of how cells are trained or
evaluated: it imports neither torch nor snakemake. Each name is loaded when it is first used.

    >>> from vlmlaw.laws import fit_law, read_measurements, recommend, rho_interval, v_star
    >>> table = read_measurements("li2024_reasoning")  # or the path of a CSV file
    >>> fit = fit_law(table, law="logit")
    >>> print(rho_interval(fit))
    4.72 [4.16, 5.33]
    >>> v_star(fit, question_tokens=[0, 50, 200])["v_star"].round(1).tolist()
    [1.0, 13.5, 53.8]
    >>> chosen = recommend(fit, flops=1e12, question_tokens=50)
    >>> chosen.n, chosen.v
    (7.0, 16.0)

N is in billions of parameters, V counts visual tokens, Q question tokens, G generated tokens; error = 1 - score.
"""

from importlib import import_module

_HOME = {
    "analysis": ("analyse", "read_analysis"),
    "blend": ("Blend", "blend_suites"),
    "bootstrap": ("residual_bootstrap", "size_bootstrap"),
    "cells": ("Cells",),
    "linter.values": ("Finding",),
    "design": ("Plan", "next_cells"),
    "decision": ("Recommendation", "recommend", "recommend_among", "regret", "sensitivity"),
    "costs": ("Cost", "ColumnCost"),
    "families": ("LAWS", "Law", "Parameter", "find_law", "register"),
    "fit": ("LintWarning", "fit_law"),
    "holdout": ("HoldOut", "hold_out"),
    "mixed": ("SizeEffects", "size_effects"),
    "optimum": ("flat_region", "frontier", "v_star"),
    "intervals": ("d_profile", "fieller", "profile", "rho_interval", "rho_profile", "v_star_interval"),
    "posterior": ("Posterior",),
    "ratio": ("Interval",),
    "linter.lint": ("lint", "require_clean"),
    "options": ("LawOptions",),
    "result": ("LawFit",),
    "selection": ("Comparison", "compare_laws", "fit_or_choose"),
    "statistics": ("lack_of_fit",),
    "table": ("Measurements", "read_measurements"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__doc__"]
