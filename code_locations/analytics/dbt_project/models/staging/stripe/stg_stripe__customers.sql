{{ stripe_customers("stripe") }}
