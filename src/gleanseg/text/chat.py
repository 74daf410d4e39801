"""A conversation with a language model behind any endpoint that speaks OpenAI's chat completions."""

import ipaddress
import json
import os
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from socket import gaierror
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from gleanseg.errors import UserError

DEFAULT_URL = "https://api.openai.com/v1"
"""Asked when neither a flag nor ``OPENAI_BASE_URL`` names another."""
Note = Callable[[str], None]
"""Told, in a line, why something is tried again."""
_KEY = "OPENAI_API_KEY"
_MAX_BYTES = 8_000_000
_MAX_SAID = 200  # characters of a server's message


class Answer(NamedTuple):
    """What a model said.

    Attributes:
        content: the text; empty where it refused.
        finish: why it ended: ``stop``, ``length``, ``content_filter``.
        refusal: its reason, where it refused outright.
        model: as the endpoint calls it.
    """

    content: str
    finish: str
    refusal: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Who is asked, and how patiently.

    Attributes:
        base_url: what ``/chat/completions`` is appended to.
        model: name of the model there.
        key: sent as bearer token; empty: none.
        retries: further tries when the server is busy or silent.
        timeout_s: that the server may be silent.
        wait_s: before the first further try; doubles each time, unless the server says how long.
        max_wait_s: longest wait; a server that asks for more is not waited for.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False)
    retries: int = 3
    timeout_s: float = 180.0
    wait_s: float = 1.0
    max_wait_s: float = 60.0

    @classmethod
    def from_environment(
        cls, base_url: str | None, *, model: str, retries: int = 3, timeout_s: float = 180.0
    ) -> "Endpoint":
        """The endpoint of a URL, else of ``OPENAI_BASE_URL``, with the key of ``OPENAI_API_KEY``.

        Servers of this machine or of a private network need no key and may speak plain HTTP.

        Raises:
            UserError: not a URL, no key, or a key that would travel readably.
        """
        url = (base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")
        key = os.environ.get(_KEY, "").strip()
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise UserError("--base-url: expected https://HOST/PATH without user and password, as in " + DEFAULT_URL)
        if not is_local(parts.hostname):
            if not key:
                raise UserError(f"{url}: needs a key; put it into the environment variable {_KEY}")
            if parts.scheme == "http":
                raise UserError(f"{url}: the key would travel unencrypted; use https")
        return cls(base_url=url, model=model, key=key, retries=retries, timeout_s=timeout_s)


def is_local(host: str) -> bool:
    """Whether a host is this machine or one of a private network."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".localhost", ".internal"))


def complete(endpoint: Endpoint, messages: Sequence[Mapping[str, str]], *, note: Note) -> Answer:
    """The model's answer to a conversation.

    Args:
        endpoint: to ask.
        messages: role and content of each, the question last.
        note: told of each further try.

    Raises:
        UserError: the endpoint refuses, is not there, or stays busy or silent.
    """
    why, wait_s = "", 0.0
    for tried in range(endpoint.retries + 1):
        if tried:
            note(f"{why}; trying again in {wait_s:g} s")
            time.sleep(wait_s)
        try:
            return _ask(endpoint, messages)
        except _BusyError as busy:
            why = str(busy)
            wait_s = min(endpoint.wait_s * 2**tried, endpoint.max_wait_s) if busy.wait_s is None else busy.wait_s
        if wait_s > endpoint.max_wait_s:
            raise UserError(f"{endpoint.base_url}: {why}; it asks to wait {wait_s:.0f} s, so try again later")
    raise UserError(f"{endpoint.base_url}: {why}, {endpoint.retries + 1} times; try later, or with more --retries")


class _BusyError(Exception):
    """Worth another try."""

    def __init__(self, why: str, *, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _opener(url: str) -> OpenerDirector:
    # A proxy of the environment leads out of the network that local servers are in.
    proxies = [ProxyHandler({})] if is_local(urlsplit(url).hostname or "") else []
    return build_opener(_NoRedirect(), *proxies)


def _ask(endpoint: Endpoint, messages: Sequence[Mapping[str, str]]) -> Answer:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    body = json.dumps({"model": endpoint.model, "messages": list(messages)}).encode()
    request = Request(f"{endpoint.base_url}/chat/completions", data=body, headers=headers, method="POST")
    try:
        with _opener(endpoint.base_url).open(request, timeout=endpoint.timeout_s) as reply:
            data = reply.read(_MAX_BYTES)
    except HTTPError as error:
        raise _of_status(error, endpoint) from None
    except (OSError, HTTPException) as error:
        raise _of_network(error, endpoint) from None
    return _answer_in(data, endpoint)


def _answer_in(data: bytes, endpoint: Endpoint) -> Answer:
    try:
        told = json.loads(data)
        choice = told["choices"][0]
        message = choice["message"]
        return Answer(
            content=message.get("content") or "",
            finish=str(choice.get("finish_reason")),
            refusal=message.get("refusal") or "",
            model=str(told.get("model") or endpoint.model),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _BusyError("malformed answer, not a chat completion in JSON") from None


def _of_network(error: OSError | HTTPException, endpoint: Endpoint) -> Exception:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return _BusyError(f"no answer within {endpoint.timeout_s:g} s")
    if isinstance(reason, ConnectionRefusedError | gaierror | ssl.SSLError):
        return UserError(f"{endpoint.base_url}: not to be reached ({reason}); start the server, or correct --base-url")
    return _BusyError(f"connection lost ({type(reason).__name__})")


def _of_status(error: HTTPError, endpoint: Endpoint) -> Exception:
    told, code = _said(error)
    said = f"HTTP {error.code}" + (f": {told.replace(endpoint.key, '...') if endpoint.key else told}" if told else "")
    if error.code in (408, 409, 429) or error.code >= 500:
        if code == "insufficient_quota":
            return UserError(f"{endpoint.base_url}: {said}; the account has nothing left to spend")
        return _BusyError(said, wait_s=_retry_after(error.headers.get("Retry-After")))
    do = {
        401: f"the key in {_KEY} is not accepted" if endpoint.key else f"put a key into {_KEY}",
        403: f"the key in {_KEY} may not use it",
        404: f"there is no model {endpoint.model!r} or no such path; see --model and --base-url",
    }.get(error.code, "it redirects; name the final --base-url" if error.code < 400 else "see --model and --base-url")
    return UserError(f"{endpoint.base_url}: {said}; {do}")


def _said(error: HTTPError) -> tuple[str, str]:
    """Message and code in an error's body, as far as there are any."""
    try:
        told: Any = json.loads(error.read(_MAX_BYTES))["error"]
        told = told if isinstance(told, dict) else {"message": told}
        return " ".join(str(told.get("message") or "").split())[:_MAX_SAID], str(told.get("code"))
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return "", ""


def _retry_after(value: str | None) -> float | None:
    """Seconds that a server asks to wait: a number or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())
