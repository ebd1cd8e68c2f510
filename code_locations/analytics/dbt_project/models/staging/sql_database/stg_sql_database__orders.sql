-- Part of the mart `orders`, not a view: the asset `orders` thus has the days of the shop's tables as its upstream.
{{ config(materialized="ephemeral") }}

select
    id as order_id,
    customer_id,
    status,
    cast(total * exchange_rate as numeric(20, 2)) as euros,
    placed_at,
    updated_at
from {{ source("sql_database", "orders") }}
