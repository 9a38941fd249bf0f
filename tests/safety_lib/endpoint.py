"""A real HTTP server on the loopback that behaves as a script says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def chat_reply(*texts: str) -> Reply:
    choices = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in texts]
    return 200, {}, json.dumps({"choices": choices}).encode()


class Server:
    def __init__(self, answer: Callable[[dict[str, Any], int], Reply]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.url = ""
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def handle(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            number = len(self.bodies)
        try:
            return self.answer(body, number)
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Reply], *, drip: float = 0.0) -> Iterator[Server]:
    """``answer`` gets the request's body and its number from 1; ``drip`` seconds between the bytes of a reply."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, headers, content = server.handle(body, {k.lower(): v for k, v in self.headers.items()})
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                for start in range(0, len(content), 1 if drip else max(1, len(content))):
                    self.wfile.write(content[start : start + (1 if drip else len(content))])
                    self.wfile.flush()
                    time.sleep(drip)
            except OSError:
                pass  # the client went away

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
