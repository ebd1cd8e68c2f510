"""What sources over HTTP share: secrets by exact name, patience with limits, errors that say what to change."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

import dlt
from dlt.common import json, logger
from dlt.common.configuration import resolve_configuration
from dlt.common.configuration.specs import RuntimeConfiguration
from dlt.common.exceptions import TerminalException, TransientException
from dlt.common.runtime import signals
from dlt.extract.exceptions import DltSourceException
from dlt.sources.helpers.requests import Response, Session
from dlt.sources.helpers.rest_client.client import RESTClient
from dlt.sources.helpers.rest_client.redaction import sanitize_url
from requests import PreparedRequest
from requests.auth import AuthBase
from requests.exceptions import ChunkedEncodingError, ConnectionError, ContentDecodingError, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception


class SourceError(DltSourceException):
    """A source cannot be read. Being one of dlt's own it is not wrapped: `PipelineStepFailed.__cause__` is it."""


class TransientSourceError(SourceError, TransientException):
    """The same load may succeed later."""


class PermanentSourceError(SourceError, TerminalException):
    """The same load fails until somebody changes what the message names."""


class OverloadedError(TransientSourceError):
    """The vendor ran out of time over one request: a smaller one may succeed."""


class LimitError(TransientSourceError):
    """A rate limit lasts longer than a request may wait: `wait` seconds, None if the vendor does not say."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Limit:
    """A rate limit that a response reports, and for how many more seconds it holds (None: not said)."""

    name: str
    wait: float | None


def seconds_until_reset(response: Response) -> float | None:
    """The wait by `Retry-After` (seconds or a date), else by the vendor's reset header (seconds or an epoch)."""
    after = response.headers.get("Retry-After", "").strip()
    reset = response.headers.get("X-RateLimit-Reset") or response.headers.get("RateLimit-Reset") or ""
    try:
        if after:
            return float(after) if after.isdigit() else parsedate_to_datetime(after).timestamp() - time.time()
        return float(reset) - (time.time() if float(reset) > 1e9 else 0.0)
    except ValueError:
        return None


def read_limit(response: Response) -> Limit | None:
    """The limit behind a 429, or a 403 that says when to come back; None if the response is something else."""
    status, headers = response.status_code, response.headers
    spent = headers.get("X-RateLimit-Remaining") == "0" or "Retry-After" in headers
    return Limit("rate limit", seconds_until_reset(response)) if status == 429 or (status == 403 and spent) else None


def backoff(attempt: int) -> float:
    """Seconds to wait after a failed attempt: exponential, with jitter, by dlt's `RUNTIME__REQUEST_*` settings."""
    config = resolve_configuration(RuntimeConfiguration())
    delay = config.request_backoff_factor * 2.0 ** min(attempt - 1, 16)
    return min(delay, config.request_max_retry_delay) * random.uniform(0.5, 1.0)  # noqa: S311


def pause(seconds: float) -> None:
    """Sleep, but end at once when the run is told to stop, or was before."""
    signals.raise_if_signalled()
    signals.sleep(seconds)
    signals.raise_if_signalled()


@dataclass(frozen=True)
class Vendor:
    """Whose API a source reads. Its settings are `SOURCES__<SOURCE>__*`; `title` is its name in messages.

    `companions` are the settings that a credential is only right with, such as the account that it belongs to.
    """

    source: str
    title: str
    credential: str
    base_url: str
    permission: str
    read_limit: Callable[[Response], Limit | None] = read_limit
    companions: tuple[str, ...] = ()

    def variable(self, key: str) -> str:
        return f"SOURCES__{self.source}__{key}".upper()

    def secret(self, given: str | None = None) -> str:
        """The credential: as given, else from dlt's providers under its exact name.

        dlt's injection would fall back to a bare `ACCESS_TOKEN`, whoever's that is, and send it to the vendor.
        """
        return self._demand(self.credential, given or dlt.secrets.get(f"sources.{self.source}.{self.credential}"))

    def setting(self, key: str, given: str | None = None) -> str:
        """A setting that has no default and is no secret: as given, else from dlt's providers under its exact name."""
        return self._demand(key, given or dlt.config.get(f"sources.{self.source}.{key}"))

    def _demand(self, key: str, found: Any) -> str:
        value, variable = str(found or "").strip(), self.variable(key)
        if not value:
            raise PermanentSourceError(f"{variable} is missing or empty: set it to read from {self.title}.")
        if not (value.isascii() and value.isprintable() and " " not in value):
            raise PermanentSourceError(f"{variable} holds spaces or signs that no credential has: copy it anew.")
        return value

    def number(self, key: str, default: float) -> float:
        value: Any = dlt.config.get(f"sources.{self.source}.{key}")
        try:
            return default if value in (None, "") else float(value)
        except (TypeError, ValueError):
            raise PermanentSourceError(f"{self.variable(key)} has to be a number of seconds.") from None

    def base(self) -> str:
        """The API's address, with no slash at its end: the vendor's own unless `…__API_BASE_URL` names another."""
        url = str(dlt.config.get(f"sources.{self.source}.api_base_url") or self.base_url).rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise PermanentSourceError(f"{self.variable('api_base_url')} has to look like {self.base_url}.")
        return url

    def max_wait(self) -> float:
        """How long one request may wait in total: by default an hour, the longest usual window, and some slack."""
        return self.number("max_wait", 3_900)

    def client(self, secret: str, auth: AuthBase, retry_overload: bool = True) -> RESTClient:
        """A client whose requests wait for limits, retry what may pass, and raise a SourceError otherwise.

        With `retry_overload=False` an OverloadedError comes at once, for callers who can ask for less.
        """
        config = resolve_configuration(RuntimeConfiguration())
        max_wait = self.max_wait()
        session = Session(self.number("timeout", config.request_timeout), raise_for_status=False)
        send = session.send

        def attempt(request: PreparedRequest, **kwargs: Any) -> Response:
            url = sanitize_url(str(request.url))
            try:
                response: Response = send(request, **kwargs)  # type: ignore[no-untyped-call]
            except Timeout as error:
                raise OverloadedError(f"{self.title} did not answer in time at {url}.") from error
            except (ConnectionError, ChunkedEncodingError, ContentDecodingError) as error:
                reason = f"{type(error).__name__}: {error}".replace(secret, "***")
                raise TransientSourceError(f"{self.title} broke off at {url} ({reason}).") from error
            if limit := self.read_limit(response):
                raise self.limit_error(limit)
            if response.status_code >= 400:
                raise self._refusal(response, url, secret)
            return response

        def is_worth_a_retry(error: BaseException) -> bool:
            fails_fast = isinstance(error, OverloadedError) and not retry_overload
            return isinstance(error, TransientSourceError) and not fails_fast

        def wait(state: RetryCallState) -> float:
            # Never before the time that the vendor named, and not all workers at that very moment.
            named = getattr(_error(state), "wait", None)
            jitter = random.random()  # noqa: S311
            return max(backoff(state.attempt_number), 0.0 if named is None else named + jitter)

        def stop(state: RetryCallState) -> bool:
            if state.idle_for + state.upcoming_sleep > max_wait:
                return True
            limited = isinstance(_error(state), LimitError)
            return state.attempt_number >= config.request_max_attempts and not limited

        def give_up(state: RetryCallState) -> NoReturn:
            error = _error(state)
            error.args = (f"{error} Gave up after {state.attempt_number} attempts.",)
            raise error

        def announce(state: RetryCallState) -> None:
            logger.warning(f"{_error(state)} Next attempt in {state.upcoming_sleep:.1f} s.")

        session.send = Retrying(  # type: ignore[method-assign]
            retry=retry_if_exception(is_worth_a_retry),
            wait=wait,
            stop=stop,
            sleep=pause,
            retry_error_callback=give_up,
            before_sleep=announce,
        ).wraps(attempt)
        return RESTClient(self.base(), auth=auth, session=session)

    def limit_error(self, limit: Limit) -> LimitError:
        until = "" if limit.wait is None else datetime.now(UTC) + timedelta(seconds=limit.wait)
        return LimitError(
            f"{self.title}'s {limit.name} is used up{until and f' until {until:%Y-%m-%d %H:%M:%S} UTC'}; "
            f"a request waits {self.max_wait():.0f} s at most ({self.variable('max_wait')}).",
            limit.wait,
        )

    def wait_for(self, limit: Limit) -> None:
        """Slow down ahead of a limit; raise the LimitError if it lasts too long."""
        error, wait = self.limit_error(limit), limit.wait or 0.0
        if wait > self.max_wait():
            raise error
        logger.warning(str(error))
        pause(wait + random.random())  # noqa: S311

    def body(self, response: Response) -> Any:
        """The response's JSON."""
        try:
            return json.loadb(response.content)
        except ValueError as error:
            found = f"{len(response.content)} bytes at {sanitize_url(response.url)}"
            raise TransientSourceError(f"{self.title} sent no valid JSON ({found}: {error}).") from error

    def _refusal(self, response: Response, url: str, secret: str) -> SourceError:
        status, variable = response.status_code, self.variable(self.credential)
        said = " ".join(response.text.split()).replace(secret, "***")[:300]
        if status in (502, 504):
            return OverloadedError(f"{self.title} ran out of time at {url} ({status}).")
        if status >= 500 or status == 409:  # in the way of another request, which is soon done
            return TransientSourceError(f"{self.title} failed at {url} ({status}: {said}).")
        if status == 401:
            variables = " and ".join(self.variable(key) for key in (self.credential, *self.companions))
            return PermanentSourceError(f"{self.title} rejects the credential (401 at {url}): check {variables}.")
        if status == 403:
            scopes = response.headers.get("X-Accepted-OAuth-Scopes")
            needs = self.permission + (f", for this address scope {scopes}" if scopes else "")
            return PermanentSourceError(f"{self.title} refuses {url} (403: {said}): {variable} needs {needs}.")
        if status == 404:
            return PermanentSourceError(
                f"{self.title} has nothing at {url} (404), or hides it: check the names in this address, "
                f"{self.variable('api_base_url')}, and that {variable} has {self.permission}."
            )
        return PermanentSourceError(f"{self.title} refuses {url} ({status}: {said}).")


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # tenacity waits, stops and gives up only after an exception here
    return error
