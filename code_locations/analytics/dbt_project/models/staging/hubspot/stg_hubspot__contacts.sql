select
    id as contact_id,
    lower({{ personal("hubspot", "contacts", "email") }}) as email,
    lifecyclestage as lifecycle_stage,
    createdate as created_at
from ({{ complete_loads("hubspot", "contacts") }}) as contacts
where not is_deleted
