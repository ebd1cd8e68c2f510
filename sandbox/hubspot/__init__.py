"""A stand-in for HubSpot's CRM API."""

from sandbox.hubspot.vendor import HubSpot

__all__ = ["HubSpot"]
