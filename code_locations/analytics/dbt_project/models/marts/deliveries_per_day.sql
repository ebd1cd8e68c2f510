with

ordered as (

    select
        {{ utc_day("placed_at") }} as day,
        count(*) as orders_placed
    from {{ ref("orders") }}
    group by 1

),

delivered as (

    select
        {{ utc_day("delivered_at") }} as day,
        count(*) as deliveries
    from {{ ref("stg_filesystem__deliveries") }}
    group by 1

)

select
    coalesce(ordered.day, delivered.day) as day,
    coalesce(ordered.orders_placed, 0) as orders_placed,
    coalesce(delivered.deliveries, 0) as deliveries
from ordered
full outer join delivered on ordered.day = delivered.day
