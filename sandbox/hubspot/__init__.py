"""A fake of HubSpot's CRM API."""

from sandbox.hubspot.fake_api import FakeHubSpot

__all__ = ["FakeHubSpot"]
