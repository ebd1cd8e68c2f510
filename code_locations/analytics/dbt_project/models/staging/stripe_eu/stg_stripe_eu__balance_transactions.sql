select
    id as transaction_id,
    'stripe_eu' as account,
    reporting_category as category,
    currency,
    {{ major_units("amount", "currency") }} as amount,
    {{ major_units("fee", "currency") }} as fee,
    {{ major_units("net", "currency") }} as net,
    created as created_at
from ({{ complete_loads("stripe_eu", "balance_transaction") }}) as transactions
