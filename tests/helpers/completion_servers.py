"""A stand-in for servers of language models: /v1/models and /v1/completions on loopback, answered from a torch model.

It speaks as the servers do that it stands for, each with its own ways: which prompts it takes, by what it tells tokens,
which token it leaves out, and at which place its log-probabilities stand. `faults` are what it does wrong.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


class Words:
    """A tokenizer of one word a token: a letter after a space, and <s> as the first token."""

    all_special_ids, bos_token_id = [0], 0

    def decode(self, ids):
        return "".join(self.word(int(one)) for one in ids)

    def word(self, token):
        return "<s>" if token == 0 else "\ufffd" if token in (1, 2) else f" w{token}"

    def encode(self, text):
        found = [0] if text.startswith("<s>") else []
        return [*found, *(int(word[1:]) for word in text.removeprefix("<s>").split())]


class CompletionServer:
    """A server, once it is `running`; `kind` is "vllm", "llama-cpp-python" or "llama.cpp"."""

    def __init__(self, model, kind="vllm", *, name="tiny", most=20, key=None, tokenizer=None, adds_first=False):
        self.model, self.kind, self.name, self.most, self.key = model, kind, name, most, key
        self.tokenizer = tokenizer or Words()
        self.adds_first, self.context = adds_first, 100
        self.faults, self.seen, self.delay = [], [], 0.0
        self.change = lambda answer: answer

    @contextlib.contextmanager
    def running(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._send(200, {"object": "list", "data": [{"id": outer.name, "object": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, body, dict(self.headers)))
                if outer.key is not None and self.headers.get("Authorization") != f"Bearer {outer.key}":
                    return self._send(401, {"detail": "Invalid API key"})
                if outer.faults:
                    fault = outer.faults.pop(0)
                    if fault is not None:
                        return fault(self)
                time.sleep(outer.delay)
                if self.path != "/v1/completions":
                    return self._send(404, {"detail": "Not Found"})
                status, answer = outer.answer(body)
                return self._send(status, outer.change(answer) if status == 200 else answer)

            def _send(self, status, answer, headers=()):
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, body):
        prompt, count = body["prompt"], body["logprobs"]
        if self.kind == "llama-cpp-python" and not isinstance(prompt, str):
            message = "[{'type': 'string_type', 'msg': 'Input should be a valid string'}]"
            return 500, {"error": {"message": message, "type": "internal_server_error", "param": None, "code": None}}
        if self.kind == "llama.cpp" and body.get("echo"):
            return 400, {
                "error": {"code": 400, "message": "Only no echo is supported", "type": "invalid_request_error"}
            }
        if count > self.most:
            message = f"Requested sample logprobs of {count}, which is greater than max allowed: {self.most}"
            return 400, {"error": {"message": message, "type": "BadRequestError", "code": 400}}
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        ids = [0, *ids] if self.adds_first and isinstance(prompt, str) else list(ids)
        if len(ids) >= self.context:
            message = f"This model's maximum context length is {self.context} tokens"
            if self.kind == "llama-cpp-python":
                message = f"could not broadcast input array from shape ({len(ids)},) into shape (0,)"
            return 500 if self.kind == "llama-cpp-python" else 400, {"error": {"message": message}}
        with torch.no_grad():
            found = self.model(torch.tensor([ids]))
        rows = getattr(found, "logits", found)[0].double().log_softmax(-1)
        written = int(rows[-1].argmax())
        return 200, {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "text": "",
                    "finish_reason": "length",
                    "logprobs": self._logprobs(ids, written, rows, count, bool(body.get("echo"))),
                }
            ],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1},
        }

    def _logprobs(self, ids, written, rows, count, echo):
        everything = [*ids, written]
        if self.kind == "llama.cpp":
            return {"content": [self._content(written, rows[-1], count)]}
        places = range(len(everything)) if echo else [len(ids)]
        late = 0
        if self.kind == "llama-cpp-python" and echo:
            if ids[0] == 0:  # the first token is left out if it is the one that begins texts
                places = places[1:]
            else:  # what follows each token is told in its place, and nothing of the token that is written
                late, places = 1, places[:-1]
        rows = [rows[max(0, min(place - 1 + late, len(rows) - 1))] for place in places]
        told = [self._told(everything[place], row, count) for place, row in zip(places, rows, strict=True)]
        found = {
            "tokens": [self._name(everything[place]) for place in places],
            "token_logprobs": [own for own, _ in told],
            "top_logprobs": [top for _, top in told],
            "text_offset": [0] * len(told),
        }
        if echo:
            found["token_logprobs"][0] = found["top_logprobs"][0] = None
        return found

    def _told(self, token, row, count):
        values, ids = row.topk(count)
        top = {self._name(one): float(value) for one, value in zip(ids.tolist(), values.tolist(), strict=True)}
        return float(row[token]), {**top, self._name(token): float(row[token])}

    def _content(self, token, row, count):
        values, ids = row.topk(count)
        rows = [
            {"id": one, "token": self.tokenizer.word(one), "bytes": [], "logprob": float(value)}
            for one, value in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        return {"id": token, "token": self.tokenizer.word(token), "logprob": float(row[token]), "top_logprobs": rows}

    def _name(self, token):
        if self.kind == "vllm":
            return f"token_id:{token}"
        word = self.tokenizer.word(token)
        return "" if token in self.tokenizer.all_special_ids else word.replace("\ufffd", "")


def refusing(status, message="overloaded", headers=()):
    """Return a fault: an answer with this status."""
    return lambda handler: handler._send(status, {"error": {"message": message}}, headers)


def dropping(handler):
    """A fault: the connection is closed without an answer."""
    handler.close_connection = True
    handler.connection.close()


def saying(content, status=200):
    """Return a fault: these bytes as the answer."""
    return lambda handler: handler._send(status, content)


def cutting(handler):
    """A fault: an answer that ends early."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.close_connection = True


def trickling(handler):
    """A fault: an answer of which a byte comes now and then, so that no single wait is long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
