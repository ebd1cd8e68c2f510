with

transactions as (

    select * from {{ ref("stg_stripe__balance_transactions") }}
    union all
    select * from {{ ref("stg_stripe_eu__balance_transactions") }}

)

select
    account,
    currency,
    {{ utc_day("created_at") }} as day,
    sum(case when category = 'charge' then amount else 0 end) as charged,
    sum(case when category = 'refund' then -amount else 0 end) as refunded,
    sum(fee) as fees,
    sum(net) as net
from transactions
where category <> 'payout' -- it moves money to the bank account
group by 1, 2, 3
