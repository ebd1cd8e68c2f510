"""The libraries' own test suites, against ours."""
