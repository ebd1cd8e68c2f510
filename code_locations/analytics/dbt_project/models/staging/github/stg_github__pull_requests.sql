with

pull_requests as ({{ complete_loads("github", "pull_requests") }}),

comments as (

    {{ nested("github", "pull_requests", "comments", {
        "_dlt_parent_id": "varchar",
        "author__login": "varchar",
        "created_at": "timestamp with time zone",
    }) }}

),

first_comments as (

    select
        comments._dlt_parent_id,
        min(comments.created_at) as first_review_at
    from comments
    inner join pull_requests on comments._dlt_parent_id = pull_requests._dlt_id
    where comments.author__login is distinct from pull_requests.author__login
    group by comments._dlt_parent_id

)

select
    repository_owner || '/' || repository_name as repository,
    number,
    title,
    state,
    author__login as author,
    created_at,
    first_review_at,
    closed_at
from pull_requests
left join first_comments on pull_requests._dlt_id = first_comments._dlt_parent_id
