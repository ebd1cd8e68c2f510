select
    courses.course_id,
    courses.name as course,
    count(enrollments.enrollment_id) as enrollments,
    count(enrollments.started_at) as started,
    count(enrollments.completed_at) as completed,
    avg(enrollments.percent_completed) as mean_percent_completed
from {{ ref("stg_thinkific__courses") }} as courses
left join {{ ref("stg_thinkific__enrollments") }} as enrollments on courses.course_id = enrollments.course_id
group by 1, 2
