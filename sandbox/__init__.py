"""Fake SaaS APIs: every source can be run, tested and measured without credentials."""
