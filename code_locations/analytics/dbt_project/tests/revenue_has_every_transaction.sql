-- Every transaction that is no payout counts once: the net amounts of both sides are the same.
with

loaded as (

    select account, currency, sum(net) as net
    from (
        select account, currency, category, net from {{ ref("stg_stripe__balance_transactions") }}
        union all
        select account, currency, category, net from {{ ref("stg_stripe_eu__balance_transactions") }}
    ) as transactions
    where category <> 'payout'
    group by 1, 2

),

reported as (

    select account, currency, sum(net) as net from {{ ref("revenue_per_day") }} group by 1, 2

)

select *
from loaded
full outer join reported on loaded.account = reported.account and loaded.currency = reported.currency
where loaded.net is distinct from reported.net
