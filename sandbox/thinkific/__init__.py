"""A fake of Thinkific's public API, version 1."""

from sandbox.thinkific.fake_api import FakeThinkific

__all__ = ["FakeThinkific"]
