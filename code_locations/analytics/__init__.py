"""The analytics team's code location: dbt models on what the other locations load."""
