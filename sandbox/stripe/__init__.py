"""A fake of Stripe's REST API: the objects that concern billing, read only."""

from sandbox.stripe.fake_api import FakeStripe

__all__ = ["FakeStripe"]
