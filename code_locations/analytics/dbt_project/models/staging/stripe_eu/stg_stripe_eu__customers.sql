select
    id as customer_id,
    lower(email) as email,
    name,
    created as created_at
from ({{ complete_loads("stripe_eu", "customer") }}) as customers
