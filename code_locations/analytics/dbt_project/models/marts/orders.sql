-- One run builds the orders that changed on the days of its partitions, or whose lines did: they are replaced.
{{
    config(
        materialized="incremental",
        incremental_strategy="delete+insert",
        unique_key="order_id",
        on_schema_change="fail",
        tags=["daily"],
        post_hook="delete from {{ this }} where order_id not in (select id from {{ source('sql_database', 'orders') }})",
    )
}}

with

orders as (

    select *
    from {{ ref("stg_sql_database__orders") }}
    {% if var("start", none) -%}
    {%- set in_window = "updated_at >= '" ~ var("start") ~ "' and updated_at < '" ~ var("end") ~ "'" -%}
    where ({{ in_window }})
        or order_id in (select order_id from {{ ref("stg_sql_database__order_items") }} where {{ in_window }})
    {%- endif %}

),

items as (

    select
        items.order_id,
        count(*) as lines,
        sum(items.quantity) as pieces
    from {{ ref("stg_sql_database__order_items") }} as items
    inner join orders on items.order_id = orders.order_id
    group by items.order_id

)

select
    orders.order_id,
    orders.customer_id,
    orders.status,
    orders.euros,
    coalesce(items.lines, 0) as lines,
    coalesce(items.pieces, 0) as pieces,
    orders.placed_at,
    orders.updated_at
from orders
left join items on orders.order_id = items.order_id
