"""A fictional school: consistent courses, users, enrollments and reviews, and changes to them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Row = dict[str, Any]

TABLES = ("courses", "users", "enrollments", "course_reviews")
OPENED = datetime(2024, 1, 8, tzinfo=UTC)
TODAY = datetime(2026, 1, 1, tzinfo=UTC)  # later than all generated data; changes have the time at which they are made

FIRST = ("Ana", "Björn", "Chloé", "Dmitri", "Eun-ji", "Fatima", "Grace", "Hiroshi", "Ines", "Jomo", "小明", "Łukasz")
LAST = ("Adeyemi", "Brandt", "Costa", "Dubois", "Eriksen", "Fischer", "García", "Hughes", "Ivanova", "O'Neill", "山田")
TOPICS = ("Watercolour", "Bookkeeping", "Sourdough", "Python", "Public Speaking", "Bee-keeping", "Typography", "Chess")
LEVELS = ("for Beginners", "in Practice", "Masterclass", "— 初級")
OPINIONS = (("Great", "It was great!"), ("Très bien 👍", "Clear and short."), ("Hm", 'He said "soon";\nI waited.'))


@dataclass(frozen=True)
class Size:
    """The number of rows in each table."""

    courses: int = 12
    users: int = 600
    enrollments: int = 2_400
    course_reviews: int = 150

    def __post_init__(self) -> None:
        if self.enrollments > self.courses * self.users:
            raise ValueError(f"{self.users} users can enroll only once in each of {self.courses} courses")
        if self.course_reviews > self.enrollments:
            raise ValueError("each review needs an enrollment: course_reviews cannot be more than enrollments")


class Site:
    """The rows by table and id, as the API returns them except for what `serialize` adds."""

    def __init__(self, seed: int, size: Size) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.tables: dict[str, dict[int, Row]] = {table: {} for table in TABLES}
        self.next_id = {"courses": 101, "users": 1_001, "enrollments": 50_001, "course_reviews": 9_001}
        for _ in range(size.users):
            self.add_user(self._moment(OPENED, TODAY - timedelta(days=60)))
        for _ in range(size.courses):
            self.add_course()
        users, courses = list(self.tables["users"].values()), list(self.tables["courses"])
        for number in range(size.enrollments):
            # Each round takes every user once, with a different course each time, so that no pair occurs twice.
            turn, index = divmod(number, len(users))
            user, course = users[index], courses[(turn + index) % len(courses)]
            created = self._moment(datetime.fromisoformat(user["created_at"]), TODAY - timedelta(days=30))
            self.add_enrollment(user["id"], course, created)
            self._study(self.tables["enrollments"][self.next_id["enrollments"] - 1], created)
        for enrollment in list(self.tables["enrollments"].values())[: size.course_reviews]:
            self.add_review(enrollment, self._moment(datetime.fromisoformat(enrollment["created_at"]), TODAY))

    def serialize(self, table: str, row: Row) -> Row:
        """The row as the API returns it: an enrollment has the current names of its user and its course."""
        if table != "enrollments":
            return row
        user, course = self.tables["users"][row["user_id"]], self.tables["courses"][row["course_id"]]
        names = {"user_email": user["email"], "user_name": user["full_name"], "course_name": course["name"]}
        return {key: value for key, value in row.items() if key != "created_at"} | names

    def add_course(self) -> Row:
        number = self.next_id["courses"]
        name = f"{self.random.choice(TOPICS)} {self.random.choice(LEVELS)} {number}"
        users = list(self.tables["users"])[:2]
        return self._add(
            "courses",
            name=name,
            slug=f"course-{number}",
            subtitle=None,
            product_id=number + 7_000,
            description=f"All about {name}." if number % 3 else None,
            course_card_text=None,
            intro_video_youtube=None,
            contact_information=None,
            keywords="learn, practise" if number % 2 else None,
            duration=None,
            banner_image_url=None,
            course_card_image_url=f"https://cdn.example.com/{number}.jpg" if number % 4 else None,
            intro_video_wistia_identifier=None,
            administrator_user_ids=users[:1],
            chapter_ids=[number * 100 + chapter for chapter in range(number % 7)],
            reviews_enabled=True,
            user_id=users[-1] if users else None,
            instructor_id=300 + number % 3,
        )

    def add_user(self, created: datetime) -> Row:
        number = self.next_id["users"]
        first, last = self.random.choice(FIRST), self.random.choice(LAST)
        affiliate = number % 50 == 2
        roles = (["site_admin"] if number == 1_001 else []) + (["affiliate"] if affiliate else [])
        fields = [("Country", "Canada"), ("Phone Number", "555-0100")] if number % 5 == 0 else []
        return self._add(
            "users",
            created_at=text(created),
            first_name=first,
            last_name=last,
            full_name=f"{first} {last}",
            company="Example Ltd." if number % 9 == 0 else None,
            email=f"user{number}@example.com",
            roles=roles,
            avatar_url=None,
            bio=None,
            headline="Baker" if number % 11 == 0 else None,
            affiliate_code=f"aff{number}" if affiliate else None,
            external_source="api" if number % 4 == 0 else None,
            affiliate_commission=12.5 if affiliate else None,
            affiliate_commission_type="%" if affiliate else None,
            affiliate_payout_email=f"user{number}@example.com" if affiliate else None,
            administered_course_ids=[101] if number == 1_001 else [],
            custom_profile_fields=[
                {
                    "id": number * 10 + place,
                    "value": value,
                    "label": label,
                    "custom_profile_field_definition_id": place + 1,
                }
                for place, (label, value) in enumerate(fields)
            ],
        )

    def add_enrollment(self, user_id: int, course_id: int, created: datetime) -> Row:
        trial = self.random.random() < 0.1
        return self._add(
            "enrollments",
            user_id=user_id,
            course_id=course_id,
            percentage_completed=0.0,
            expired=False,
            is_free_trial=trial,
            completed=False,
            started_at=None,
            activated_at=None if trial else text(created),
            completed_at=None,
            updated_at=text(created),
            expiry_date=None,
            created_at=text(created),
        )

    def add_review(self, enrollment: Row, created: datetime) -> Row:
        title, words = self.random.choice(OPINIONS)
        return self._add(
            "course_reviews",
            rating=self.random.randint(1, 5),
            title=title,
            review_text=words,
            user_id=enrollment["user_id"],
            course_id=enrollment["course_id"],
            approved=self.random.random() < 0.8,
            created_at=text(created),
        )

    def progress(self, enrollment: Row, percentage: float, moment: datetime) -> None:
        """Set how much of the course the user has completed."""
        enrollment |= {
            "percentage_completed": percentage,
            "completed": percentage == 1,
            "started_at": enrollment["started_at"] or text(moment),
            "completed_at": text(moment) if percentage == 1 else None,
            "updated_at": text(moment),
        }

    def delete(self, table: str, row_id: int) -> None:
        """Delete a row; with a user or a course also its enrollments and reviews."""
        del self.tables[table][row_id]
        if table in ("users", "courses"):
            reference = f"{table.removesuffix('s')}_id"
            for child in ("enrollments", "course_reviews"):
                rows = self.tables[child]
                self.tables[child] = {key: row for key, row in rows.items() if row[reference] != row_id}

    def _study(self, enrollment: Row, created: datetime) -> None:
        percentage = self.random.choice((0.0, 0.0, 0.25, 0.5, 0.9, 1.0, 1.0))
        if percentage:
            begun = self._moment(created, TODAY - timedelta(days=20))
            self.progress(enrollment, min(percentage, 0.25), begun)
            self.progress(enrollment, percentage, self._moment(begun, TODAY))
        if self.random.random() < 0.3:
            expiry = datetime.fromisoformat(enrollment["updated_at"]) + timedelta(days=90)
            enrollment |= {"expiry_date": text(expiry), "expired": expiry < TODAY}
            if expiry < TODAY:
                enrollment["updated_at"] = text(expiry)

    def _moment(self, after: datetime, before: datetime) -> datetime:
        return after + (before - after) * self.random.random()

    def _add(self, table: str, **values: Any) -> Row:
        row: Row = {"id": self.next_id[table], **values}
        self.next_id[table] += 1
        self.tables[table][row["id"]] = row
        return row


def text(moment: datetime) -> str:
    """A time in the API's format, which sorts chronologically."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
