-- The test of course_id reads the courses, so whoever builds this model and its upstream has to build them.
-- depends_on: {{ ref("stg_thinkific__courses") }}
select
    id as enrollment_id,
    course_id,
    user_id,
    percentage_completed * 100 as percent_completed, -- Thinkific gives a share from 0 to 1
    started_at,
    completed_at
from ({{ complete_loads("thinkific", "enrollments") }}) as enrollments
where not is_free_trial
