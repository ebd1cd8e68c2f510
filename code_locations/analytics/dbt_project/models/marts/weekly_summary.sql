with

figures as (

    select week, 'issues opened' as figure, sum(opened) as value from {{ ref("issues_per_week") }} group by week

    union all

    select week, 'issues closed', sum(closed) from {{ ref("issues_per_week") }} group by week

    union all

    select week, 'pull requests', sum(pull_requests) from {{ ref("reviews_per_week") }} group by week

    union all

    select {{ utc_week("placed_at") }}, 'orders', count(*) from {{ ref("orders") }} group by 1

    union all

    select {{ utc_week("placed_at") }}, 'euros ordered', sum(euros) from {{ ref("orders") }} group by 1

    union all

    select cast(date_trunc('week', day) as date), 'deliveries', sum(deliveries)
    from {{ ref("deliveries_per_day") }}
    group by 1

    union all

    select cast(date_trunc('week', day) as date), account || ' net ' || upper(currency), sum(net)
    from {{ ref("revenue_per_day") }}
    group by 1, account, currency

    union all

    select {{ utc_week("subscriber_since") }}, 'new subscribers', count(*)
    from {{ ref("customers") }}
    where subscriber_since is not null
    group by 1

    union all

    select {{ utc_week("completed_at") }}, 'courses completed', count(*)
    from {{ ref("stg_thinkific__enrollments") }}
    where completed_at is not null
    group by 1

)

select week, figure, cast(value as numeric(20, 2)) as value
from figures
where value <> 0
