"""The operations team's code location."""
