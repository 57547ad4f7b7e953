"""The laws: how error depends on N (billions of parameters) and V (visual tokens). One small class each.

To add a law, subclass IndexLaw in `links.py` (a link around c0 + a ln N + b ln V: two methods) or SeparableLaw in
`powers.py` (a sum of products of powers: a list of terms), and decorate it with `register`. Everything else (fit,
intervals, choice, frontier) follows. A law of your own module works as well: register it before you fit.
"""

from vlmlaw.laws.families.law import LAWS, Law, Parameter, find_law, register
from vlmlaw.laws.families.links import Logit  # noqa: F401  its import registers the link laws
from vlmlaw.laws.families.powers import PowerFree

# power_free is for the curious: its optimum is often unphysical.
DEFAULT_CANDIDATES = tuple(name for name in LAWS if name != PowerFree.name)

__all__ = ["DEFAULT_CANDIDATES", "LAWS", "Law", "Parameter", "find_law", "register"]
