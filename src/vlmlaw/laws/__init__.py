"""Scaling laws of vision-language models: read measured cells, fit, doubt, choose, and find the cell to deploy.

    from vlmlaw.laws import read_measurements, fit_law, rho_interval, v_star, frontier, recommend

    table = read_measurements("results.csv")                # or a published table: "li2024_reasoning"
    fit = fit_law(table, law="logit")                       # LawFit: .summary(), .predict(n, v), .rho, .verdict()
    rho_interval(fit)                                       # Interval(estimate, lower, upper, ...)
    v_star(fit, question_tokens=[0, 50, 200])               # V*(Q) with its interval and the flat region
    recommend(fit, flops=1e12, question_tokens=50)          # the cell to deploy

N is in billions of parameters, V counts visual tokens, Q question tokens, G generated tokens; error = 1 - score.
This package imports neither torch nor snakemake, and names are loaded when first used.
"""

from importlib import import_module

_HOME = {
    "analysis": ("analyse", "read_analysis"),
    "bootstrap": ("residual_bootstrap", "size_bootstrap"),
    "cells": ("Cells",),
    "linter.values": ("Finding",),
    "decision": ("Recommendation", "recommend", "regret", "sensitivity"),
    "costs": ("Cost", "ColumnCost"),
    "families": ("LAWS", "Law", "Parameter", "find_law", "register"),
    "fit": ("LintWarning", "fit_law"),
    "holdout": ("HoldOut", "hold_out"),
    "mixed": ("SizeEffects", "size_effects"),
    "optimum": ("flat_region", "frontier", "v_star"),
    "intervals": ("Interval", "d_profile", "fieller", "profile", "rho_interval", "rho_profile", "v_star_interval"),
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
