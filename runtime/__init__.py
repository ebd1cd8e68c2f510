"""How a load runs: isolated from every other run, and honest about what it did. Knows no source and no location."""
