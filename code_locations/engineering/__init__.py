"""The engineering team's code location."""
