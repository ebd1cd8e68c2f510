select
    repository,
    {{ utc_week("created_at") }} as week,
    count(*) as pull_requests,
    count(first_review_at) as reviewed,
    percentile_cont(0.5) within group (
        order by {{ hours_between("created_at", "first_review_at") }}
    ) as median_hours_to_review,
    percentile_cont(0.5) within group (
        order by {{ hours_between("created_at", "closed_at") }}
    ) as median_hours_to_close
from {{ ref("stg_github__pull_requests") }}
group by 1, 2
