"""What sources share over HTTP: credentials, waiting for rate limits, retries, and errors that say what to change."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

from dlt.common import json, logger
from dlt.common.configuration import resolve_configuration
from dlt.common.configuration.specs import RuntimeConfiguration
from dlt.common.jsonpath import TJsonPath, find_values
from dlt.common.runtime import signals
from dlt.sources.helpers.requests import Response, Session
from dlt.sources.helpers.rest_client.auth import BearerTokenAuth
from dlt.sources.helpers.rest_client.client import PageData, RESTClient
from dlt.sources.helpers.rest_client.redaction import sanitize_url
from requests import PreparedRequest
from requests.auth import AuthBase
from requests.exceptions import ChunkedEncodingError, ConnectionError, ContentDecodingError, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception

from dlt_sources import settings
from dlt_sources.errors import PermanentSourceError, SourceError, TransientSourceError


class OverloadedError(TransientSourceError):
    """The API timed out on one request: a smaller one may succeed."""


class LimitError(TransientSourceError):
    """A rate limit lasts longer than a request may wait: `wait` seconds, None if the API does not say."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Limit:
    """A rate limit that a response reports, and the seconds until it resets (None: not reported)."""

    name: str
    wait: float | None


def seconds_until_reset(response: Response) -> float | None:
    """The wait by `Retry-After` (seconds or a date), else by the rate limit's reset header (seconds or an epoch)."""
    after = response.headers.get("Retry-After", "").strip()
    reset = response.headers.get("X-RateLimit-Reset") or response.headers.get("RateLimit-Reset") or ""
    try:
        if after:
            return float(after) if after.isdigit() else parsedate_to_datetime(after).timestamp() - time.time()
        return float(reset) - (time.time() if float(reset) > 1e9 else 0.0)
    except ValueError:
        return None


def read_limit(response: Response) -> Limit | None:
    """The limit behind a 429, or behind a 403 that says when to come back; None for any other response."""
    status, headers = response.status_code, response.headers
    is_spent = headers.get("X-RateLimit-Remaining") == "0" or "Retry-After" in headers
    if status == 429 or (status == 403 and is_spent):
        return Limit("rate limit", seconds_until_reset(response))
    return None


def backoff(attempt: int) -> float:
    """Seconds to wait after a failed attempt: exponential, with jitter, by dlt's `RUNTIME__REQUEST_*` settings."""
    config = resolve_configuration(RuntimeConfiguration())
    delay = config.request_backoff_factor * 2.0 ** min(attempt - 1, 16)
    return min(delay, config.request_max_retry_delay) * random.uniform(0.5, 1.0)  # noqa: S311


def pause(seconds: float) -> None:
    """Sleep, but end at once with an exception if the run is told to stop, or was already."""
    signals.raise_if_signalled()
    signals.sleep(seconds)
    signals.raise_if_signalled()


@dataclass(frozen=True)
class ApiClient:
    """A vendor's API. Its settings are `SOURCES__<SOURCE>__*`; `title` is its name in messages.

    `credential` is the setting with the key or token, and `permission` what it needs. `companions` are settings that
    the credential only works with, such as the account that it belongs to.
    """

    source: str
    title: str
    credential: str
    base_url: str
    permission: str
    read_limit: Callable[[Response], Limit | None] = read_limit
    companions: tuple[str, ...] = ()

    def rest_client(
        self,
        secret: str | None = None,
        auth: Callable[[str], AuthBase] = BearerTokenAuth,
        retry_overload: bool = True,
    ) -> RESTClient:
        """dlt's client for this API: it waits for rate limits, retries transient errors, and raises a SourceError.

        `secret` takes the place of the configured credential, from which `auth` makes the authentication. With
        `retry_overload=False` an OverloadedError is raised at once, for callers who can ask for less.
        """
        secret = self.secret(secret)
        return _StrictRESTClient(self, auth(secret), _RetryingSession(self, secret, retry_overload))

    def secret(self, given: str | None = None) -> str:
        """The credential: as given, else as configured."""
        return self._checked(self.credential, given, secret=True)

    def setting(self, key: str, given: str | None = None) -> str:
        """A required setting that is no secret: as given, else as configured."""
        return self._checked(key, given, secret=False)

    def _checked(self, key: str, given: str | None, secret: bool) -> str:
        value = settings.require(self.source, key, self._purpose, given, secret)
        if not (value.isascii() and value.isprintable() and " " not in value):
            raise PermanentSourceError(
                f"{self.variable(key)} contains whitespace or unsupported characters; copy it again."
            )
        return value

    @property
    def _purpose(self) -> str:
        return f"to read from {self.title}"

    def variable(self, key: str) -> str:
        return settings.variable(self.source, key)

    def number(self, key: str, default: float) -> float:
        value = settings.read(self.source, key, self._purpose)
        try:
            return float(value) if value else default
        except ValueError:
            raise PermanentSourceError(f"{self.variable(key)} must be a number of seconds.") from None

    def max_wait(self) -> float:
        """How long one request may wait in total: by default an hour, the longest usual window, and some slack."""
        return self.number("max_wait", 3_900)

    def api_base_url(self) -> str:
        """The API's address without a trailing slash: the vendor's own unless `…__API_BASE_URL` names another."""
        url = (settings.read(self.source, "api_base_url", self._purpose) or self.base_url).rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise PermanentSourceError(f"{self.variable('api_base_url')} must look like {self.base_url}.")
        return url

    def body(self, response: Response) -> Any:
        """The response's JSON."""
        try:
            return json.loadb(response.content)
        except ValueError as error:
            found = f"{len(response.content)} bytes at {sanitize_url(response.url)}"
            raise TransientSourceError(f"{self.title} sent invalid JSON ({found}: {error}).") from error

    def wait_for(self, limit: Limit) -> None:
        """Wait for a limit before it is reached; raise the LimitError if it lasts too long."""
        error, wait = self.limit_error(limit), limit.wait or 0.0
        if wait > self.max_wait():
            raise error
        logger.warning(str(error))
        pause(wait + random.random())  # noqa: S311

    def limit_error(self, limit: Limit) -> LimitError:
        until = "" if limit.wait is None else datetime.now(UTC) + timedelta(seconds=limit.wait)
        return LimitError(
            f"{self.title}'s {limit.name} is used up{until and f' until {until:%Y-%m-%d %H:%M:%S} UTC'}; "
            f"a request waits {self.max_wait():.0f} s at most ({self.variable('max_wait')}).",
            limit.wait,
        )

    def status_error(self, response: Response, secret: str) -> SourceError:
        """What a response with status 400 or higher means, and what to change."""
        status, url, variable = response.status_code, sanitize_url(response.url), self.variable(self.credential)
        said = " ".join(response.text.split()).replace(secret, "***")[:300]
        if status in (502, 504):
            return OverloadedError(f"{self.title} timed out at {url} ({status}).")
        if status >= 500 or status == 409:  # 409: a concurrent request holds a lock, for a moment
            return TransientSourceError(f"{self.title} failed at {url} ({status}: {said}).")
        if status == 401:
            variables = " and ".join(self.variable(key) for key in (self.credential, *self.companions))
            return PermanentSourceError(f"{self.title} rejects the credential (401 at {url}): check {variables}.")
        if status == 403:
            scopes = response.headers.get("X-Accepted-OAuth-Scopes")
            needs = self.permission + (f", for this address scope {scopes}" if scopes else "")
            return PermanentSourceError(f"{self.title} denies access to {url} (403: {said}): {variable} needs {needs}.")
        if status == 404:
            return PermanentSourceError(
                f"{self.title} has nothing at {url} (404), or hides it: check the names in this address, "
                f"{self.variable('api_base_url')}, and that {variable} has {self.permission}."
            )
        return PermanentSourceError(f"{self.title} rejects the request {url} ({status}: {said}).")


class _RetryingSession(Session):
    """Sends a request until it succeeds, fails permanently, or has waited for `max_wait` seconds."""

    def __init__(self, api: ApiClient, secret: str, retry_overload: bool) -> None:
        config = resolve_configuration(RuntimeConfiguration())
        super().__init__(api.number("timeout", config.request_timeout), raise_for_status=False)
        self._api, self._secret, self._retry_overload = api, secret, retry_overload
        self._max_attempts, self._max_wait = config.request_max_attempts, api.max_wait()

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
        retrying = Retrying(
            retry=retry_if_exception(self._is_retryable),
            wait=_wait,
            stop=self._is_exhausted,
            sleep=pause,
            retry_error_callback=_give_up,
            before_sleep=_log_retry,
        )
        return retrying(self._send_once, request, **kwargs)

    def _send_once(self, request: PreparedRequest, **kwargs: Any) -> Response:
        title, url = self._api.title, sanitize_url(str(request.url))
        try:
            response: Response = super().send(request, **kwargs)  # type: ignore[no-untyped-call]
        except Timeout as error:
            raise OverloadedError(f"{title} did not answer in time at {url}.") from error
        except (ConnectionError, ChunkedEncodingError, ContentDecodingError) as error:
            reason = f"{type(error).__name__}: {error}".replace(self._secret, "***")
            raise TransientSourceError(f"The connection to {title} broke at {url} ({reason}).") from error
        if limit := self._api.read_limit(response):
            raise self._api.limit_error(limit)
        if response.status_code >= 400:
            raise self._api.status_error(response, self._secret)
        return response

    def _is_retryable(self, error: BaseException) -> bool:
        fails_fast = isinstance(error, OverloadedError) and not self._retry_overload
        return isinstance(error, TransientSourceError) and not fails_fast

    def _is_exhausted(self, state: RetryCallState) -> bool:
        if state.idle_for + state.upcoming_sleep > self._max_wait:
            return True
        # A limit ends by itself: time bounds how long to wait for it, not attempts.
        return state.attempt_number >= self._max_attempts and not isinstance(_error(state), LimitError)


def _wait(state: RetryCallState) -> float:
    """At least until the limit resets; with jitter, so that parallel runs do not resume at the same moment."""
    reset = getattr(_error(state), "wait", None)
    jitter = random.random()  # noqa: S311
    return max(backoff(state.attempt_number), 0.0 if reset is None else reset + jitter)


def _give_up(state: RetryCallState) -> NoReturn:
    error = _error(state)
    error.args = (f"{error} Gave up after {state.attempt_number} attempts.",)
    raise error


def _log_retry(state: RetryCallState) -> None:
    logger.warning(f"{_error(state)} Next attempt in {state.upcoming_sleep:.1f} s.")


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # tenacity waits, stops and gives up only after an exception here
    return error


class _StrictRESTClient(RESTClient):
    """dlt's client, whose `paginate` raises this module's errors, also for a page that lacks the expected list."""

    def __init__(self, api: ApiClient, auth: AuthBase, session: Session) -> None:
        super().__init__(api.api_base_url(), auth=auth, session=session)
        self._api = api

    def paginate(self, *args: Any, **kwargs: Any) -> Iterator[PageData[Any]]:
        # The session raises for a status. dlt's hook would do so first, and say less.
        return super().paginate(*args, **{"hooks": {"response": []}} | kwargs)

    def extract_response(self, response: Response, data_selector: TJsonPath) -> list[Any]:
        if not find_values(data_selector, self._api.body(response)) and "*" not in str(data_selector):
            where = sanitize_url(response.url)
            raise TransientSourceError(f"{self._api.title} sent JSON without `{data_selector}` at {where}.")
        return super().extract_response(response, data_selector)
