{{ stripe_customers("stripe_eu") }}
