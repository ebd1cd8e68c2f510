select
    id as customer_id,
    lower({{ personal("sql_database", "customers", "email") }}) as email,
    {{ personal("sql_database", "customers", "name") }} as name
from {{ source("sql_database", "customers") }}
