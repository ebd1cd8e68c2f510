{{ config(materialized="table") }}

select
    cast(orders.placed_at at time zone 'UTC' as date) as day,
    count(distinct orders.id) as orders,
    sum(lines.pieces) as pieces
from {{ source("shop", "orders") }} as orders
inner join {{ source("shop", "orders__lines") }} as lines on orders._dlt_id = lines._dlt_parent_id
group by 1
