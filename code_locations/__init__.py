"""The code locations: a folder, a container, a team each."""

from runtime.missing_secrets import tolerate_missing_secrets

tolerate_missing_secrets()
