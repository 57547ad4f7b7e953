"""Families of laws: how the error depends on N (billions of parameters) and V (visual tokens), one class per law.

A law maps parameters and cells to errors and their gradients. It must not know how it is fitted, chosen or used. To add
one, subclass IndexLaw of `links.py` (a link around c0 + a ln N + b ln V: two methods) or SeparableLaw of `powers.py` (a
sum of products of powers: a list of terms) and decorate it with `register`; fit, intervals, choice and frontier then
work for it. A law may also be defined in another module, if it is registered before the fit.
"""

from vlmlaw.laws.families.law import LAWS, Law, Parameter, find_law, register
from vlmlaw.laws.families.links import Logit  # noqa: F401  its import registers the link laws
from vlmlaw.laws.families.powers import PowerFree

# power_free is for the curious: its optimum is often unphysical.
DEFAULT_CANDIDATES = tuple(name for name in LAWS if name != PowerFree.name)

__all__ = ["DEFAULT_CANDIDATES", "LAWS", "Law", "Parameter", "find_law", "register"]
