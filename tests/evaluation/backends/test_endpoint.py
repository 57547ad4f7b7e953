"""A model behind a server on loopback: counting, failures of every kind, and what becomes of them."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from tests.evaluation.backends.server import Server

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.endpoint import Endpoint, Patience
from vlmlaw.evaluation.backends.families import FAMILIES
from vlmlaw.evaluation.backends.interface import Unanswered

PICTURE = np.full((280, 560, 3), 90, np.uint8)  # 10 x 20 cells


@pytest.fixture
def served():
    server = Server(lambda model, text, v: f"{text} {v}")
    waits: list[float] = []
    open_ = []

    def endpoint(model="small-1B", **patience):
        made = Endpoint(
            server.url, model, FAMILIES["qwen2.5-vl"], patience=Patience(**patience), wait=lambda s: waits.append(s)
        )
        open_.append(made)
        return made

    yield SimpleNamespace(server=server, endpoint=endpoint, waits=waits)
    for one in open_:
        one.close()
    server.stop()


def ask(endpoint, text="what", *, budget=None, images=(PICTURE,)):
    return endpoint.ask(text, images, budget=budget, max_new_tokens=8)


def test_a_reply_is_counted_and_timed(served):
    endpoint = served.endpoint()
    endpoint.check([0, 64, None])
    blind, few, whole = (ask(endpoint, budget=budget) for budget in (0, 64, None))
    assert [reply.n_prompt_tokens for reply in (blind, few, whole)] == [8, 8 + 5 * 11 + 2, 8 + 200 + 2]
    assert few.sizes == ((5 * 28, 11 * 28),) and blind.sizes == () and whole.sizes == ((280, 560),)
    assert whole.text == "what 202" and whole.finish == "stop" and whole.n_generated_tokens == 2
    assert 0 < whole.first_token_seconds < whole.seconds
    two = ask(endpoint, images=(PICTURE, PICTURE))
    assert two.n_prompt_tokens == 8 + 2 * 202 and len(two.sizes) == 2


@pytest.mark.parametrize("failure", [429, 500, 503, 0, "away"])
def test_what_passes_is_tried_again_and_asked_once(served, failure):
    served.server.fail = lambda number: failure if number < 3 else None
    reply = ask(served.endpoint())
    assert reply.text == "what 202"
    assert served.server.n_requests == 4 and len(served.waits) == 3 and served.waits == sorted(served.waits)
    assert set(served.server.asked.values()) == {1}
    assert reply.seconds < 1  # of the last attempt alone


def test_the_server_says_how_long_to_wait(served):
    served.server.headers = {"retry-after": "7"}
    served.server.fail = lambda number: 429 if number == 0 else None
    ask(served.endpoint())
    assert served.waits == [7.0]


def test_a_question_that_a_working_server_fails_at_is_given_up(served):
    endpoint = served.endpoint()
    served.server.fail = lambda number: 400 if number == 0 else None
    with pytest.raises(Unanswered, match="400"):
        ask(endpoint)
    assert served.server.n_requests == 1
    failing = iter([500] * 6)
    served.server.fail = lambda number: next(failing, None)  # the seventh request asks whether it says anything at all
    with pytest.raises(Unanswered, match=r"500.*6 times"):
        ask(endpoint)


def test_a_server_that_stays_away_ends_it_with_what_to_do(served):
    endpoint = served.endpoint(outage_seconds=0.01)
    served.server.stop()
    with pytest.raises(UserError, match="run the same command again"):
        ask(endpoint)
    served.server.start()
    assert ask(endpoint).text == "what 202"


def test_a_late_reply_is_a_failure(served):
    endpoint = served.endpoint(timeout_seconds=0.2)
    slow = threading.Event()

    def answer(model, text, v):
        if not slow.is_set():
            slow.set()
            time.sleep(0.5)
        return "yes"

    served.server.answer = answer
    assert ask(endpoint).text == "yes"
    assert len(served.waits) == 1


def test_servers_without_usage_or_its_option(served):
    served.server.refuses_stream_options = True
    endpoint = served.endpoint()
    assert [ask(endpoint).n_prompt_tokens for _ in range(2)] == [210, 210]
    assert served.server.n_requests == 3  # asked for it once
    served.server.refuses_stream_options, served.server.usage = False, False
    reply = ask(served.endpoint())
    assert reply.n_prompt_tokens is None and reply.n_generated_tokens is None and reply.text == "what 202"


def test_what_cannot_be_asked_is_said_before(served):
    with pytest.raises(UserError, match=r"does not answer as 'other'.*404.*it lists small-1B, large-4B"):
        served.endpoint("other").check([0])
    with pytest.raises(UserError, match=r"20000 visual tokens: qwen2.5-vl makes 4 to 16384"):
        served.endpoint().check([20000])
    served.server.lists_models = False
    served.endpoint().check([0])
    with pytest.raises(UserError, match=r"does not answer as 'other'.*it lists no model"):
        served.endpoint("other").check([0])
    served.server.stop()
    with pytest.raises(UserError, match=r"no server answers at http://127.0.0.1.*start it"):
        served.endpoint().check([0])
    served.server.start()


def test_the_key_comes_from_the_environment_and_no_name_is_shown(served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    ask(served.endpoint())
    assert served.server.keys == {"Bearer a-key"}
    served.server.fail = lambda number: 401
    endpoint = Endpoint(served.server.url.replace("//", "//user:word@"), "small-1B", FAMILIES["fixed"])
    with pytest.raises(UserError) as caught:
        ask(endpoint)
    endpoint.close()
    assert "word@" not in str(caught.value) and "127.0.0.1" in str(caught.value)
