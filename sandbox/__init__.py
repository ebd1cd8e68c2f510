"""Stand-ins for the SaaS APIs, so that every source runs, is tested and is measured without a credential."""
