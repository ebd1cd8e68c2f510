select
    repository_owner || '/' || repository_name as repository,
    number,
    title,
    state,
    author__login as author,
    created_at,
    closed_at
from ({{ complete_loads("github", "issues") }}) as issues
