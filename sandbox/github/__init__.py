"""A fake of GitHub's GraphQL and REST APIs."""

from sandbox.github.archive import ArchiveError
from sandbox.github.fake_api import FakeGitHub

__all__ = ["ArchiveError", "FakeGitHub"]
