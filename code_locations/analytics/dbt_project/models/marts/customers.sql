with

orders as (

    select
        customers.email,
        count(orders.order_id) as orders,
        coalesce(sum(orders.euros), 0) as euros_ordered
    from {{ ref("stg_sql_database__customers") }} as customers
    left join {{ ref("orders") }} as orders on customers.customer_id = orders.customer_id
    where customers.email is not null
    group by customers.email

),

subscribers as (

    select email, min(created_at) as first_seen_at
    from (
        select email, created_at from {{ ref("stg_stripe__customers") }}
        union all
        select email, created_at from {{ ref("stg_stripe_eu__customers") }}
    ) as accounts
    where email is not null
    group by email

),

contacts as (

    select email, min(created_at) as first_seen_at
    from {{ ref("stg_hubspot__contacts") }}
    where email is not null
    group by email

),

emails as (

    select email from orders
    union
    select email from subscribers
    union
    select email from contacts

)

select
    emails.email,
    orders.email is not null as in_shop,
    subscribers.email is not null as in_stripe,
    contacts.email is not null as in_hubspot,
    coalesce(orders.orders, 0) as orders,
    coalesce(orders.euros_ordered, 0) as euros_ordered,
    subscribers.first_seen_at as subscriber_since,
    contacts.first_seen_at as contact_since
from emails
left join orders on emails.email = orders.email
left join subscribers on emails.email = subscribers.email
left join contacts on emails.email = contacts.email
