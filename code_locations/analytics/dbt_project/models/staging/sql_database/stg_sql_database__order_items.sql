{{ config(materialized="ephemeral") }}

select
    order_id,
    line,
    product_id,
    quantity,
    unit_price,
    updated_at
from {{ source("sql_database", "order_items") }}
