"""What answers cost in money: by the tokens that a model reads and writes, or by the hour of the machine it runs on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError

MILLION, THOUSAND = 1e6, 1000
SECONDS_OF_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Price:
    """A model's price: for a million tokens read and written, or for an hour of its machine (per_hour is not None)."""

    read: float = 0.0
    written: float = 0.0
    per_hour: float | None = None

    @classmethod
    def parse(cls, text: str, *, where: str) -> Price:
        """The price in a text. `where` names it in the UserError for any other text.

        >>> Price.parse("0.1/0.4", where="--price small"), Price.parse("2.5/h", where="--price small").per_hour
        (Price(read=0.1, written=0.4, per_hour=None), 2.5)
        """
        first, _, second = (part.strip() for part in text.partition("/"))
        try:
            values = [float(first), 0.0 if second == "h" else float(second)]
        except ValueError:
            values = [math.nan]
        if not all(0 <= value < math.inf for value in values):
            raise UserError(
                f"{where}: found {text!r}; expected IN/OUT for a million tokens, as 0.1/0.4, or the price of an hour "
                "of its machine, as 2.5/h."
            )
        return cls(per_hour=values[0]) if second == "h" else cls(read=values[0], written=values[1])

    def of_thousand(self, cells: pd.DataFrame) -> np.ndarray:
        """Money for a thousand questions to each of these rows of the table of cells; nan where it is not known.

        By the hour a question takes the machine for the time of a reply; where the requests a second under load are
        known, for their inverse.
        """
        if self.per_hour is None:
            read = (cells.n_visual_tokens + cells.n_text_tokens) * self.read
            return ((read + cells.n_generated_tokens * self.written) * THOUSAND / MILLION).to_numpy()
        seconds = cells.total_ms / 1000
        if "requests_per_second" in cells:
            seconds = (1 / cells.requests_per_second).fillna(seconds)
        return (self.per_hour * seconds * THOUSAND / SECONDS_OF_HOUR).to_numpy()
