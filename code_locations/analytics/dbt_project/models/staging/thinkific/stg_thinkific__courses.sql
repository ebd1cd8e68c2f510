select
    id as course_id,
    name
from ({{ complete_loads("thinkific", "courses") }}) as courses
