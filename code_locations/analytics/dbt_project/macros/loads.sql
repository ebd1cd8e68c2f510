{# The rows of a table that dlt has loaded completely: a load's row in _dlt_loads is the last thing that it writes. #}
{% macro complete_loads(source_name, table) -%}
    {%- set relation = source(source_name, table) -%}
    select *
    from {{ relation }}
    where _dlt_load_id in (
        select loads.load_id
        from {{ relation.incorporate(path={"identifier": "_dlt_loads"}) }} as loads
        where loads.status = 0
    )
{%- endmacro %}

{#
    The rows of a nested table, each with its parent's _dlt_id in _dlt_parent_id. `columns`: name and type of those to
    read. dlt creates a nested table with its first row: until then there are none.
#}
{% macro nested(source_name, table, field, columns) -%}
    {%- set relation = source(source_name, table).incorporate(path={"identifier": table ~ "__" ~ field}) -%}
    {%- if not execute or load_relation(relation) -%}
        select {{ columns | join(", ") }} from {{ relation }}
    {%- else -%}
        select {% for name, type in columns.items() -%}
            cast(null as {{ type }}) as {{ name }}{{ "," if not loop.last }}
        {%- endfor %} where false
    {%- endif -%}
{%- endmacro %}

{#
    A column with personal data, null if the load leaves it out (docs/shapes.md): models and marts stay the same.
    A relation that is missing has no columns either, and is named when the model is built.
#}
{% macro personal(source_name, table, column) -%}
    {%- set columns = adapter.get_columns_in_relation(source(source_name, table)) if execute else [] -%}
    {%- if not execute or column in columns | map(attribute="name") | map("lower") -%}
        {{ column }}
    {%- else -%}
        cast(null as varchar)
    {%- endif -%}
{%- endmacro %}
