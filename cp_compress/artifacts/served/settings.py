"""Where a served model is, and how it is asked; checked without torch, so that a specification can be read at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from cp_compress.base.arguments import check_choice, check_integer, check_real, reject

_OWNER = "ServedModel"
ASKS = ("echo", "prefixes")
"""The ways to ask about a text: as a whole, or about each token after its beginning."""
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Address:
    """Where a server answers: scheme, host, port, and the path before `/completions`."""

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: object) -> Address:
        """Return what a text says; raises InvalidArgumentError for another form, without repeating secrets in it.

        >>> str(Address.parse("http://localhost/v1/completions"))
        'http://localhost:80/v1'
        """
        rule = 'must be the address of an OpenAI-compatible server, such as "http://127.0.0.1:8000/v1"'
        if not isinstance(url, str):
            reject(_OWNER, "url", url, rule)
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            reject(_OWNER, "url", "…", rule)
        if parts.username is not None or parts.password is not None:
            told = "holds a user or a password, which would be recorded: name the variable with the key by api_key_env="
            reject(_OWNER, "url", _without_secrets(parts), told)
        if parts.query or parts.fragment:
            told = "must end with its path: queries may hold secrets, which would be recorded"
            reject(_OWNER, "url", _without_secrets(parts), told)
        plain = url.isascii() and url.isprintable() and not any(one in url.strip() for one in ' \\"')
        if parts.scheme not in ("http", "https") or not host or not plain:
            reject(_OWNER, "url", _without_secrets(parts), rule)
        secure = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/completions").rstrip("/")
        return cls(secure, host, port or (443 if secure else 80), path)

    @property
    def place(self) -> str:
        """The host and the port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.place}{self.path}"


def _without_secrets(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


@dataclass(frozen=True)
class Settings:
    """The arguments of `ServedModel`, checked."""

    address: Address
    model: str | None
    ask: str
    api_key_env: str | None
    timeout_s: float
    retries: int
    concurrency: int

    @property
    def name(self) -> str:
        """What records call the model."""
        return f"{self.model or 'the model'} at {self.address.place}"


def read_settings(
    url: object,
    *,
    model: Any = None,
    ask: Any = "echo",
    api_key_env: Any = None,
    timeout_s: Any = 120.0,
    retries: Any = 4,
    concurrency: Any = 1,
) -> Settings:
    """Return the arguments of `ServedModel`; raises InvalidArgumentError for one that is not as described there."""
    address = Address.parse(url)
    if model is not None and (not isinstance(model, str) or not model or not model.isprintable()):
        reject(_OWNER, "model", model, "must be the name of a model that the server has, or None where it has one")
    if api_key_env is not None and not (isinstance(api_key_env, str) and _VARIABLE.fullmatch(api_key_env)):
        # it may be the key itself
        reject(_OWNER, "api_key_env", "…", "must be the name of an environment variable, not a key")
    seconds = "must be seconds above 0, at most 86400"
    repeats, requests = "must be a whole number of 0 to 20", "must be a whole number of 1 to 64"
    return Settings(
        address,
        model,
        check_choice(_OWNER, "ask", ask, ASKS),
        api_key_env,
        check_real(_OWNER, "timeout_s", timeout_s, seconds, above=0, at_most=86400),
        check_integer(_OWNER, "retries", retries, repeats, at_least=0, at_most=20),
        check_integer(_OWNER, "concurrency", concurrency, requests, at_least=1, at_most=64),
    )
