{# The day in UTC, whatever the time zone of the session. #}
{% macro utc_day(timestamp) -%}
    {{ adapter.dispatch("utc_day")(timestamp) }}
{%- endmacro %}

{% macro default__utc_day(timestamp) -%}
    cast({{ timestamp }} at time zone 'UTC' as date)
{%- endmacro %}

{% macro snowflake__utc_day(timestamp) -%}
    cast(convert_timezone('UTC', {{ timestamp }}) as date)
{%- endmacro %}

{# The Monday of the week in UTC. #}
{% macro utc_week(timestamp) -%}
    cast(date_trunc('week', {{ utc_day(timestamp) }}) as date)
{%- endmacro %}

{% macro hours_between(first, last) -%}
    {{ adapter.dispatch("hours_between")(first, last) }}
{%- endmacro %}

{% macro default__hours_between(first, last) -%}
    extract(epoch from ({{ last }} - {{ first }})) / 3600.0
{%- endmacro %}

{% macro snowflake__hours_between(first, last) -%}
    datediff('millisecond', {{ first }}, {{ last }}) / 3600000.0
{%- endmacro %}

{#
    A Stripe amount in units of its currency. Stripe counts in the smallest unit, which most currencies have at 1/100.
    The others: https://docs.stripe.com/currencies
#}
{% macro major_units(amount, currency) -%}
    cast({{ amount }} / cast(case
        when {{ currency }} in (
            'bif', 'clp', 'djf', 'gnf', 'jpy', 'kmf', 'krw', 'mga', 'pyg', 'rwf', 'vnd', 'vuv', 'xaf', 'xof', 'xpf'
        ) then 1
        when {{ currency }} in ('bhd', 'jod', 'kwd', 'omr', 'tnd') then 1000
        else 100
    end as numeric(4, 0)) as numeric(20, 3))
{%- endmacro %}
