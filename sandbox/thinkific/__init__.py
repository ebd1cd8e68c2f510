"""A stand-in for Thinkific's public API, version 1."""

from sandbox.thinkific.vendor import Thinkific

__all__ = ["Thinkific"]
