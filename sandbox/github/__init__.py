"""A stand-in for GitHub's GraphQL and REST APIs."""

from sandbox.github.archive import ArchiveError
from sandbox.github.vendor import GitHub

__all__ = ["ArchiveError", "GitHub"]
