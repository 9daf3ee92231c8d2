"""Requests to a server by HTTP: bounded in time and size, repeated where that may help, and silent about keys."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from cp_compress.artifacts.served.settings import Settings
from cp_compress.base.documents import read_document
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import ObservationError

_PASSING = (408, 429, 500, 502, 503, 504)
"""What a server answers that may well answer a moment later."""
_WRONG_FORM = b"Input should be"
"""What pydantic says of a request of another form, which llama-cpp-python's server answers with 500."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_LARGEST = 256 << 20
_TOLD = 300


class RefusedError(ObservationError):
    """A server's answer to a request that it will not carry out; `status` is the answer's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """A server, asked as its settings say.

    The key is read from its environment variable for each request, kept nowhere, and taken out of what the server says.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.address = settings, settings.address

    def get(self, name: str) -> Any:
        """Return the JSON document that the server has under a path; raises as `post`."""
        return self._ask("GET", name, None)

    def post(self, name: str, content: Mapping[str, Any]) -> Any:
        """Return the JSON document with which the server answers another one.

        Raises RefusedError for an answer that is an error and stays one, and ObservationError where there is no answer
        in time, or one that is no JSON.
        """
        return self._ask("POST", name, json.dumps(content).encode())

    def _ask(self, method: str, name: str, body: bytes | None) -> Any:
        key = self._key()
        last, failed = "", 0
        for attempt in range(self.settings.retries + 1):
            try:
                status, headers, content = self._once(method, f"{self.address.path}{name}", body, key)
            except (OSError, http.client.HTTPException) as error:
                last = self._told_failure(error)
                if isinstance(error, (ssl.SSLError, socket.gaierror)):  # neither passes
                    break
                failed = 0
                self._wait(attempt, None)
                continue
            if status not in _PASSING or _WRONG_FORM in content:
                return self._read(name, status, headers, content, key)
            last, failed = f"it answered {status} {_reason(status)}: {_said(content, key)}", status
            self._wait(attempt, headers.get("retry-after"))
        tries = f" (asked {attempt + 1} times)" if attempt else ""
        told = f"the server at {self.address} gave no answer to {name}{tries}: {last}"
        raise RefusedError(told, failed) if failed else ObservationError(told)

    def _key(self) -> str | None:
        variable = self.settings.api_key_env
        if variable is None:
            return None
        key = os.environ.get(variable)
        if not key or not key.isprintable() or not key.isascii():
            how = "is not set" if not key else "holds characters that no key has"
            raise ObservationError(f"the environment variable {variable}, api_key_env, {how}")
        return key

    def _once(self, method: str, path: str, body: bytes | None, key: str | None) -> tuple[int, dict[str, str], bytes]:
        headers = {"Accept": "application/json", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        kind = http.client.HTTPSConnection if self.address.secure else http.client.HTTPConnection
        connection = kind(self.address.host, self.address.port, timeout=self.settings.timeout_s)
        connection.connect()
        with contextlib.closing(connection), self._ended(connection.sock) as late:
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                told = answer.length
                content = answer.read(_LARGEST + 1)
                if told is not None and len(content) < min(told, _LARGEST):
                    raise http.client.IncompleteRead(content, told - len(content))
            except (OSError, http.client.HTTPException, ValueError) as error:
                if late.is_set():
                    raise TimeoutError from error
                raise
            if late.is_set():  # what was read so far may look whole
                raise TimeoutError
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, content

    @contextlib.contextmanager
    def _ended(self, open_socket: socket.socket) -> Iterator[threading.Event]:
        """Cut the connection when its time is over: a socket's own limit is for each piece that arrives."""
        late = threading.Event()

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.settings.timeout_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def _wait(self, attempt: int, asked: str | None) -> None:
        if attempt >= self.settings.retries:
            return
        wait = _FIRST_WAIT_S * 2**attempt
        if asked is not None and asked.strip().isdecimal():
            wait = max(wait, float(asked))
        time.sleep(min(wait, _LONGEST_WAIT_S))

    def _told_failure(self, error: OSError | http.client.HTTPException) -> str:
        if isinstance(error, TimeoutError):
            return f"it did not answer within {self.settings.timeout_s:g} s (timeout_s)"
        if isinstance(error, ConnectionRefusedError):
            return "the connection was refused: is the server running, and is this its port?"
        if isinstance(error, socket.gaierror):
            return f"there is no host {self.address.host}"
        if isinstance(error, http.client.RemoteDisconnected):
            return "it closed the connection without an answer"
        if isinstance(error, http.client.IncompleteRead):
            return "its answer ended early"
        return f"the connection failed: {type(error).__name__}: {shortened(reason_of(error), _TOLD)}"

    def _read(self, name: str, status: int, headers: Mapping[str, str], content: bytes, key: str | None) -> Any:
        where = f"{self.address}{name}"
        if 300 <= status < 400:
            raise RefusedError(f"{where} leads elsewhere ({status}): give the address that it leads to", status)
        if status in (401, 403):
            rule = "name the variable that holds its key by api_key_env=" if key is None else "the key is not accepted"
            raise RefusedError(f"{where} answered {status} {_reason(status)}: {rule}", status)
        if status in (404, 405):
            rule = 'is the path right? It is mostly "/v1"'
            raise RefusedError(f"{where} answered {status} {_reason(status)}: {_said(content, key)}; {rule}", status)
        if status != 200:
            raise RefusedError(f"{where} answered {status} {_reason(status)}: {_said(content, key)}", status)
        if len(content) > _LARGEST:
            raise ObservationError(f"{where} answered more than {_LARGEST:,} bytes: ask for fewer tokens (top_k)")
        try:
            return read_document(content)
        except ValueError as error:
            what = "HTML" if b"<" in content[:20] else "no JSON"
            told = f"{where} answered {what} ({error}): {_said(content, key)}"
            raise ObservationError(f"{told}; is this an OpenAI-compatible server?") from error


def _reason(status: int) -> str:
    return http.client.responses.get(status, "")


def _said(content: bytes, key: str | None) -> str:
    """Return what an answer says of itself: the message of an error in JSON, or its beginning; without the key."""
    text = content[: 10 * _TOLD].decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        text = str(_message(read_document(content)))
    if key is not None:
        text = text.replace(key, "…")
    return shortened(text, _TOLD) or "nothing"


def _message(found: Any) -> Any:
    """Return the text in which servers say what is wrong: error.message, error, message or detail."""
    while isinstance(found, dict):
        inner = next((found[name] for name in ("error", "message", "detail") if found.get(name)), None)
        if inner is None:
            return json.dumps(found)
        found = inner
    return found
