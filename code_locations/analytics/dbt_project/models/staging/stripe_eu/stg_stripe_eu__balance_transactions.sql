{{ stripe_balance_transactions("stripe_eu") }}
