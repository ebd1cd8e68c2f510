"""What to do about an error, in one sentence without secrets."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from traceback import FrameSummary, extract_tb
from typing import Any

from dlt.common.configuration.container import Container
from dlt.common.configuration.exceptions import (
    ConfigFieldMissingException,
    LookupTrace,
    LookupTraces,
    NestedLookupTraces,
    flatten_traces,
)
from dlt.common.configuration.providers import EnvironProvider
from dlt.common.configuration.providers.doc import BaseDocProvider
from dlt.common.configuration.specs import PluggableRunContext
from dlt.common.exceptions import MissingDependencyException

from runtime.load.placeholders import DLT_VARIABLE
from runtime.load.retries import causes

PROJECT_FILE = r"({})[/\\](?!.*site-packages).*"
PROJECT_PACKAGES = ("code_locations", "dlt_sources", "runtime")
ENVIRONMENT = EnvironProvider().name
SECRET_IN_URL = re.compile(r"(?<=://)[^/\s]+(?=@)|(?<=[?&])[^\s=&]+=[^\s&]+")  # a password may contain `@`
# Values and names of settings that stay readable: `eu`, `5432`, `true`, and a host that has the name `warehouse`.
PUBLIC_VALUE = re.compile(r".{0,3}|\d{1,5}|true|false", re.IGNORECASE)
PUBLIC_NAME = re.compile(r"_(HOST|PORT|DATABASE|SCHEMA|USERNAME|WAREHOUSE|ROLE|SUBDOMAIN|URL|NAME|PATH)$")


def advice(error: BaseException, module: str = "") -> str:
    """What to set, to install or to look at, and the line of the project that led there, `without_secrets`.

    `module` is the one that failed. In another repository, its package is the project.
    """
    place = _place(error, module.partition(".")[0])
    sentence = missing_settings(error) or _missing_package(error, place) or without_secrets(_first_line(error))
    return f"{sentence} ({place})" if place else sentence


def without_secrets(text: str) -> str:
    """Replaces what dlt knows as a setting by its name, and user, password and parameters of each URL by `***`.

    dlt knows its variables of sources and destinations in the environment (which include the secret files it has read)
    and what is in `secrets.toml` or was fetched from a vault. Everything else stays: `PUBLIC_VALUE` and `PUBLIC_NAME`,
    a secret of another variable, and one that the vendor has encoded or cut.
    """
    names = {
        value: name for name, value in _settings() if not PUBLIC_VALUE.fullmatch(value) and not PUBLIC_NAME.search(name)
    }
    for value in sorted(names, key=len, reverse=True):
        text = text.replace(value, f"${names[value]}")
    return SECRET_IN_URL.sub("***", text)


def missing_settings(error: BaseException) -> str | None:
    """Names the variables that must be set, if the lack of them caused the error."""
    for cause in causes(error):
        if isinstance(cause, ConfigFieldMissingException):
            names = [name for traces in cause.traces.values() for name in _names_to_set(traces)]
            return _are_missing(names or cause.fields)
        frames = _frames(cause)
        if isinstance(cause, KeyError) and frames and frames[-1].filename in (os.__file__, "<frozen os>"):
            return _are_missing([str(cause.args[0])])  # os.environ["…"]
    return None


def _are_missing(names: Sequence[str]) -> str:
    verb, pronoun = ("is", "it") if len(names) == 1 else ("are", "them")
    return f"{', '.join(names)} {verb} missing, empty or a placeholder: set {pronoun} and restart the location."


def _names_to_set(traces: NestedLookupTraces) -> Iterator[str]:
    """The variables of one missing field.

    Credentials can be given as a whole or in parts: "SOURCES__SQL__CREDENTIALS (or its parts …__HOST, …__PASSWORD)".
    If `resolved_fields_set`, some parts have a value, so only the others are missing.
    """
    if variable := _source_name([trace for trace in traces if isinstance(trace, LookupTrace)]):
        yield variable
    kinds = [trace for trace in traces if isinstance(trace, LookupTraces)]  # of credentials that the field accepts
    missing = [(name, _source_name(flatten_traces(found))) for kind in kinds for name, found in kind.traces.items()]
    parts = {part: part.removesuffix(f"__{name.upper()}") for name, part in missing if part}
    if any(kind.resolved_fields_set for kind in kinds):
        yield from parts
    elif parts:
        yield f"{next(iter(parts.values()))} (or its parts {', '.join(parts)})"


def _source_name(traces: Sequence[LookupTrace]) -> str | None:
    """Of the variables that dlt has tried, the one for the whole source or destination.

    dlt tries SOURCES__<SECTION>__<NAME>__X, then SOURCES__<SECTION>__X, and finally X, which all sources share.
    """
    tried = [trace for trace in traces if trace.provider == ENVIRONMENT]
    if not tried:
        return None
    owner = max((trace.sections for trace in tried), key=len)[:2]
    ours = [trace for trace in tried if list(trace.sections[:2]) == list(owner)]
    return min(ours, key=lambda trace: (len(trace.sections), len(trace.key))).key


def _missing_package(error: BaseException, place: str | None) -> str | None:
    """How to install what could not be imported, if that is what caused the error."""
    option = "--group verified " if place and re.match(r"dlt_sources[/\\]verified", place) else ""
    for cause in causes(error):
        if isinstance(cause, MissingDependencyException):
            packages = " ".join(f"'{name}'" for name in cause.dependencies)
            return f"{packages} must be installed: run `uv add {option}{packages}` and build the image again."
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            if cause.name.partition(".")[0] in PROJECT_PACKAGES:
                return None
            # Its package may have another name: `bson` comes with pymongo, and breaks it if installed by itself.
            return (
                f"The module {cause.name} is not installed: run `uv add {option}<package>` (the requirements.txt of "
                "the source has the name) and build the image again."
            )
    return None


def _first_line(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return ": ".join(filter(None, [type(error).__name__, line]))


def _settings() -> Iterator[tuple[str, str]]:
    """Name and value of each setting of a source or destination, and of all else that dlt has read as a secret."""
    yield from ((name, value) for name, value in os.environ.items() if DLT_VARIABLE.search(name))
    for provider in Container()[PluggableRunContext].providers.providers:
        if isinstance(provider, BaseDocProvider) and provider.supports_secrets:
            yield from _leaves(provider._config_doc)


def _leaves(value: Any, *path: str) -> Iterator[tuple[str, str]]:
    match value:
        case Mapping():
            for key, part in value.items():
                yield from _leaves(part, *path, str(key))
        case list():
            for part in value:
                yield from _leaves(part, *path)
        case str() | int() | float():
            yield "__".join(path).upper(), str(value)


def _place(error: BaseException, package: str) -> str | None:
    """The last file and line of a location, a source or the package on the way to the error."""
    project_file = re.compile(PROJECT_FILE.format("|".join(filter(None, ["code_locations", "dlt_sources", package]))))
    places = [(frame.filename, frame.lineno) for frame in _frames(error)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    own = [f"{match[0]}:{line}" for file, line in places if (match := project_file.search(file))]
    return own[-1] if own else None


def _frames(error: BaseException) -> Sequence[FrameSummary]:
    return extract_tb(error.__traceback__)
