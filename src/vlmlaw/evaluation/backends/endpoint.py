"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, LMDeploy, `transformers serve`, a vendor's).

Images are resized here by the family's rule, which works on every server, and sent as lossless PNG. The reply is
streamed, so that the first token has a time of its own. The client's own retries are off: a time that contains a
failed attempt would be no measurement. The key comes from OPENAI_API_KEY and is written nowhere.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openai
from PIL import Image

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.address import shown
from vlmlaw.evaluation.backends.families import Family
from vlmlaw.evaluation.backends.interface import Budget, Reply, Unanswered

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # seconds before each next attempt; the last one again and again
PASSING = (408, 409, 425, 429)  # of the 4xx, those after which the same request may succeed
ATTEMPTS = 6  # at a question that a working server fails at, half a minute in all
NO_KEY = "none"  # servers of one's own ask for no key, and the client for some text


class _Broken(Exception):
    """The stream ended before the reply did."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait: for one reply, and for a server that fails or is away."""

    timeout_seconds: float = 300.0
    outage_seconds: float = 600.0


class Endpoint:
    """One model of a server. `close` ends its connections."""

    def __init__(
        self,
        url: str,
        model: str,
        family: Family,
        *,
        patience: Patience | None = None,
        wait: Callable[[float], None] = time.sleep,
    ):
        self.name, self.family, self.url = model, family.name, url
        self.identity = model  # a server does not say more
        self._rule, self._patience, self._wait = family, patience or Patience(), wait
        self._with_usage = True  # until the server refuses `stream_options`
        self._client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get("OPENAI_API_KEY") or NO_KEY,
            timeout=self._patience.timeout_seconds,
            max_retries=0,
        )

    def close(self) -> None:
        self._client.close()

    # Before anything is asked.

    def check(self, budgets: Sequence[Budget]) -> None:
        """Raise UserError for a budget the family cannot make, a server that is away, a model it does not have."""
        for budget in budgets:
            if problem := self._rule.problem(budget):
                raise UserError(f"{self.name} cannot be asked at {budget} visual tokens: {problem}.")
        listed = self._listed()
        if self.name in listed:
            return
        try:  # some servers list nothing, or not what they would load
            self._once([{"type": "text", "text": "Hello"}], max_new_tokens=1)
        except (openai.APIError, _Broken) as error:
            there = f"it lists {', '.join(listed[:12])}" if listed else "it lists no model"
            raise UserError(
                f"the server {shown(self.url)} does not answer as {self.name!r} ({_reason(error)}); {there}."
            ) from error

    def _listed(self) -> list[str]:
        try:
            return [model.id for model in self._client.models.list()]
        except openai.APIConnectionError as error:
            raise UserError(
                f"no server answers at {shown(self.url)} ({_reason(error)}); start it, or correct --endpoint. "
                "It is the address with the version, as in http://127.0.0.1:8000/v1."
            ) from error
        except openai.AuthenticationError as error:
            raise UserError(
                f"the server {shown(self.url)} refuses the key ({_reason(error)}); put the right one into the "
                "environment as OPENAI_API_KEY."
            ) from error
        except openai.APIError:
            return []  # a server without that route

    # Asking.

    def ask(self, text: str, images: Sequence[np.ndarray], *, budget: Budget, max_new_tokens: int) -> Reply:
        """The reply to one question, tried again while waiting can help. See `Backend.ask`."""
        pictures = [] if budget == 0 else [self._resized(image, budget) for image in images]
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(picture)}"}}
            for picture in pictures
        ]
        parts.append({"type": "text", "text": text})
        sizes = tuple((picture.height, picture.width) for picture in pictures)
        since = time.monotonic()
        for attempt in range(10**9):
            try:
                reply = self._once(parts, max_new_tokens=max_new_tokens)
            except (openai.APIError, _Broken) as error:
                self._judge(error, attempt, waited=time.monotonic() - since)
                self._wait(_back_off(error, attempt))
                continue
            return Reply(**vars(reply) | {"sizes": sizes})
        raise AssertionError("patience ends before attempts do")

    def _judge(self, error: Exception, attempt: int, *, waited: float) -> None:
        """Return where it makes sense to try again; raise Unanswered or UserError where it does not."""
        status = getattr(error, "status_code", None)
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)):
            raise UserError(f"the server {shown(self.url)} refuses {self.name}: {_reason(error)}.") from error
        if status is not None and status < 500 and status not in PASSING:
            raise Unanswered(_reason(error)) from error
        slow = isinstance(error, openai.APITimeoutError)
        if status not in PASSING and attempt + 1 >= (2 if slow else ATTEMPTS) and self._answers():
            # The server works; it is this question that it fails at.
            raise Unanswered(f"{_reason(error)}, {attempt + 1} times") from error
        if waited > self._patience.outage_seconds:
            raise UserError(
                f"the server {shown(self.url)} fails: {_reason(error)}, for {waited:.0f} s. What it answered is kept; "
                "run the same command again when it works."
            ) from error

    def _answers(self) -> bool:
        """Whether the model says anything at all."""
        try:
            self._once([{"type": "text", "text": "Hello"}], max_new_tokens=1)
        except (openai.APIError, _Broken):
            return False
        return True

    def _once(self, parts: list[dict[str, Any]], *, max_new_tokens: int) -> Reply:
        """One attempt. A server that refuses `stream_options` is asked without, now and from now on."""
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if self._with_usage else {}
        start = time.perf_counter()
        try:
            chunks: Iterable[Any] = self._client.chat.completions.create(
                model=self.name,
                messages=[{"role": "user", "content": parts}],  # type: ignore[list-item, misc]
                max_tokens=max_new_tokens,
                temperature=0.0,
                stream=True,
                **options,
            )
            return _read(chunks, start)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not options or "stream_options" not in str(error):
                raise
            self._with_usage = False
            return self._once(parts, max_new_tokens=max_new_tokens)

    def _resized(self, pixels: np.ndarray, budget: Budget) -> Image.Image:
        image = Image.fromarray(pixels)
        try:
            height, width = self._rule.resized(image.height, image.width, budget)
        except ValueError as error:
            raise Unanswered(str(error)) from error
        if (height, width) == (image.height, image.width):
            return image
        return image.resize((width, height), Image.Resampling.BICUBIC)


def _read(chunks: Iterable[Any], start: float) -> Reply:
    """The reply of a stream. Raises _Broken where it ends before it says that it is finished."""
    said, first, usage, finish = [], None, None, ""
    try:
        for chunk in chunks:
            usage = getattr(chunk, "usage", None) or usage
            for choice in chunk.choices or ():
                delta = choice.delta
                text = delta.content or ""
                thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
                if first is None and (text or thought):
                    first = time.perf_counter() - start
                said.append(text)
                finish = choice.finish_reason or finish
    except openai.APIError:
        raise
    except (
        Exception
    ) as error:  # the transport's own errors, of httpx or its successor, are no part of openai's interface
        raise _Broken(f"the stream broke: {error}") from error
    if not finish:
        raise _Broken("the stream ended before the reply did")
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
    return Reply(
        text="".join(said).strip(),
        seconds=time.perf_counter() - start,
        first_token_seconds=first,
        n_prompt_tokens=getattr(usage, "prompt_tokens", None) or None,
        n_generated_tokens=getattr(usage, "completion_tokens", None),
        n_cached_tokens=cached,
        finish=finish,
    )


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _back_off(error: Exception, attempt: int) -> float:
    """Seconds until the next attempt: as the server asks for, else longer each time."""
    response = getattr(error, "response", None)
    try:
        asked = float(response.headers["retry-after"]) if response is not None else 0.0
    except (KeyError, ValueError):
        asked = 0.0
    return max(min(asked, 120.0), WAITS[min(attempt, len(WAITS) - 1)])


def _reason(error: Exception) -> str:
    """What went wrong, on one short line."""
    status = getattr(error, "status_code", None)
    cause = f": {error.__cause__}" if isinstance(error, openai.APIConnectionError) and error.__cause__ else ""
    body = getattr(error, "body", None)  # of an error within a stream, which has no words of its own
    words = " ".join(f"{error}{cause}{f': {body}' if isinstance(body, str) and body not in str(error) else ''}".split())
    return f"{status}, {words[:300]}" if status is not None and str(status) not in words[:40] else words[:300]
