"""The revenue team's code location."""
