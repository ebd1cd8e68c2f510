select
    id as customer_id,
    lower(email) as email,
    name
from {{ source("sql_database", "customers") }}
