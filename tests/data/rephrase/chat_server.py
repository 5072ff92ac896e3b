"""A server on this machine that speaks as much of the OpenAI protocol as is needed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn
from blip3v.data.records import Record, write_records


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what a test wanted."""


class Server:
    """answer: request's user text -> reply, or (status, headers, body) for anything else."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], Any] = lambda given: sentence(given)
        self.delay = 0.0
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.now, self.most = 0, 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.requests.append(request)
                    server.keys.add(self.headers.get("Authorization", ""))
                    server.now += 1
                    server.most = max(server.most, server.now)
                time.sleep(server.delay)
                status, headers, body = server.respond(request)
                with server._lock:
                    server.now -= 1
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def respond(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        reply = self.answer(request)
        if isinstance(reply, tuple):
            return reply
        return 200, {}, completion(reply)

    def questions(self) -> list[str]:
        """First user text of each request."""
        return [request["messages"][1]["content"] for request in self.requests]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def completion(text: str | None, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    fields = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(fields | {"usage": usage}).encode()


def given(request: dict[str, Any]) -> dict[str, str]:
    """What the prompt put into the user's message."""
    return json.loads(request["messages"][1]["content"])


def sentence(request: dict[str, Any]) -> str:
    """A good reply to the task `sentence`."""
    return f"In the video it is {given(request)['answer']}."


@contextmanager
def running_server() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


def write_annotations(folder: Path, count: int) -> Path:
    """A file of short answers about videos that need not exist."""
    records = [
        Record(f"r{n}", (Turn(f"what is number {n} ?", f"thing {n}"),), folder / "v.mp4", source="set")
        for n in range(count)
    ]
    write_records(folder / "in.jsonl", records)
    return folder / "in.jsonl"
