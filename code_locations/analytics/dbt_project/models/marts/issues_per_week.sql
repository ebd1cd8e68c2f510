with

events as (

    select repository, {{ utc_week("created_at") }} as week, 1 as opened, 0 as closed
    from {{ ref("stg_github__issues") }}

    union all

    select repository, {{ utc_week("closed_at") }} as week, 0 as opened, 1 as closed
    from {{ ref("stg_github__issues") }}
    where closed_at is not null

)

select
    repository,
    week,
    sum(opened) as opened,
    sum(closed) as closed
from events
group by repository, week
