"""How a load runs: `load` keeps it right, `instance` is what Dagster's processes need, `accelerate` makes it fast."""
