{# What every Stripe account has, by the name of its source. #}
{% macro stripe_balance_transactions(account) -%}
    select
        id as transaction_id,
        '{{ account }}' as account,
        reporting_category as category,
        currency,
        {{ major_units("amount", "currency") }} as amount,
        {{ major_units("fee", "currency") }} as fee,
        {{ major_units("net", "currency") }} as net,
        created as created_at
    from ({{ complete_loads(account, "balance_transaction") }}) as transactions
{%- endmacro %}

{% macro stripe_customers(account) -%}
    select
        id as customer_id,
        lower({{ personal(account, "customer", "email") }}) as email,
        {{ personal(account, "customer", "name") }} as name,
        created as created_at
    from ({{ complete_loads(account, "customer") }}) as customers
{%- endmacro %}
