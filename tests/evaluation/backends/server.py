"""A small OpenAI-compatible server on loopback that can be told to fail, and remembers everything it was asked.

Its models see an image at native resolution: V is the number of 28 px cells of the image that arrives, plus two
markers, below a limit of the server's own. How a question is answered is for the test to say.
"""

import base64
import io
import json
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

CELL_PX = 28
MARKERS = 2


class Server:
    """Runs in a thread; `fail` is called before each reply with the request's number and may return a status.

    A status of 0 cuts the connection after the first token, "away" cuts it before any.
    """

    def __init__(self, answer: Callable[[str, str, int], str], *, models: tuple[str, ...] = ("small-1B", "large-4B")):
        self.answer, self.models = answer, models
        self.fail: Callable[[int], Any] = lambda number: None
        self.usage, self.lists_models, self.most_tokens, self.refuses_stream_options = True, True, 16384, False
        self.headers: dict[str, str] = {}
        self.asked: Counter[tuple[str, str, int]] = Counter()  # (model, text, V) of every reply that went out whole
        self.n_requests, self.keys, self.most_at_once, self._at_once = 0, set[str](), 0, 0
        self.lock = threading.Lock()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """Start, or start again at the same port."""
        handler = type("Handler", (_Handler,), {"owner": self})
        ThreadingHTTPServer.allow_reuse_address = True
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._http.daemon_threads = True
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Die: no connection is taken any more."""
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    _counted = False
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if not self.owner.lists_models:
            return self._json(404, {"error": {"message": "no such route"}})
        self._json(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in self.owner.models]})

    def do_POST(self) -> None:
        owner, self._counted = self.owner, True
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with owner.lock:
            number, owner.n_requests = owner.n_requests, owner.n_requests + 1
            owner.keys.add(self.headers.get("authorization", ""))
            owner._at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner._at_once)
        try:
            self._reply(body, number)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Count the request as answered; before its last bytes go out, since they may bring the client's next one."""
        with self.owner.lock:
            self.owner._at_once -= self._counted
            self._counted = False

    def _reply(self, body: dict[str, Any], number: int) -> None:
        owner = self.owner
        if body["model"] not in owner.models:
            return self._json(404, {"error": {"message": f"the model `{body['model']}` does not exist"}})
        if owner.refuses_stream_options and "stream_options" in body:
            return self._json(400, {"error": {"message": "Unrecognized argument: stream_options"}})
        failure = owner.fail(number)
        if failure == "away":
            return self._cut()
        if failure:
            return self._json(failure, {"error": {"message": f"failed with {failure}"}}, **owner.headers)
        parts = body["messages"][0]["content"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        v = sum(self._tokens(part["image_url"]["url"]) for part in parts if part["type"] == "image_url")
        said = owner.answer(body["model"], text, v)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self._chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": said[:1]}}]})
        if failure == 0:
            return self._cut()
        time.sleep(0.002)
        self._chunk({"choices": [{"index": 0, "delta": {"content": said[1:]}, "finish_reason": "stop"}]})
        if owner.usage and (body.get("stream_options") or owner.refuses_stream_options):
            n_prompt, n_said = len(text.split()) + 7 + v, len(said.split())
            usage = {"prompt_tokens": n_prompt, "completion_tokens": n_said, "total_tokens": n_prompt + n_said}
            self._chunk({"choices": [], "usage": usage})
        self._leave()
        with owner.lock:
            owner.asked[body["model"], text, v] += 1
        self.wfile.write(b"data: [DONE]\n\n")

    def _cut(self) -> None:
        self.close_connection = True
        self._leave()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _tokens(self, url: str) -> int:
        head, _, data = url.partition(",")
        assert head == "data:image/png;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        n = max(1, round(image.height / CELL_PX)) * max(1, round(image.width / CELL_PX))
        return min(n, self.owner.most_tokens) + MARKERS

    def _chunk(self, data: dict[str, Any]) -> None:
        whole = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"} | data
        self.wfile.write(f"data: {json.dumps(whole)}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, data: dict[str, Any], **headers: str) -> None:
        self._leave()
        blob = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(blob)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(blob)


def difficulty(text: str) -> float:
    """A number in [0, 1) that only the text decides."""
    return math.modf(sum(ord(letter) * (place + 1) for place, letter in enumerate(text)) * 0.6180339887)[0]
