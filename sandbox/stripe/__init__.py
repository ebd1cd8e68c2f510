"""Stripe's REST API, as far as the objects that billing is about go."""

from sandbox.stripe.vendor import Stripe

__all__ = ["Stripe"]
