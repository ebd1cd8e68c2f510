select
    id as delivery_id,
    city,
    cast(delivered_at as timestamp with time zone) as delivered_at -- a CSV file has no types
from {{ source("filesystem", "deliveries") }}
