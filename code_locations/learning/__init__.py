"""The learning team's code location."""
