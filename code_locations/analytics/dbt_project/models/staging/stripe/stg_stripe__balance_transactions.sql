{{ stripe_balance_transactions("stripe") }}
