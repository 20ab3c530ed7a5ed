"""Commands about jobs: submit, jobs, cancel, logs, fetch."""

import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from bus.port import NoResponders
from runners.cli.common import (
    DEFAULT_STORE,
    EXIT_FAILED,
    EXIT_USAGE,
    JOBS,
    JsonOption,
    ServerOption,
    StoreOption,
    console,
    duration,
    errors,
    example,
    fail,
    joined,
    print_json,
    run_async,
    size,
)
from runners.cli.following import follow_job
from runners.client import Client, Refused, SentBundle
from runners.fetching import Fetched, fetch_ended, fetch_job
from runners.job_file import BadJobFile, read_job_file
from runners.report import from_json
from runners.report_text import summary
from schemas.errors import FAULTS
from schemas.jobs import JobPhase, JobState, JobSummary
from schemas.nodes import WorkFailed, WorkPrinted

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `shoal submit` printed it.")]


def submit(
    request: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job request: kind, workload, rounds, ...")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job until it ends, then fetch model and report.")
    ] = False,
    rounds: Annotated[int | None, typer.Option("--rounds", metavar="N", help="Instead of the file's.")] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Send the workload's source along, for nodes that trust this store's key.")
    ] = False,
    app_dir: Annotated[
        Path, typer.Option("--app-dir", metavar="DIR", help="Where --bundle finds the workload; by default here.")
    ] = Path(),
    job: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Instead of the file's: makes the request idempotent.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where --wait puts what it fetches.")] = Path("runs"),
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Submit a job. Where no desk answers, it is stored and starts once there is one."""
    body = _read_request(request)
    body.update({name: value for name, value in (("rounds", rounds), ("id", job)) if value is not None})
    files = body.pop("files", [])
    if files and not bundle:
        fail(f"files in {request} travel in a bundle: add --bundle", EXIT_USAGE)
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        fail(f'files in {request} must be a list of paths, such as ["words.txt"]', EXIT_USAGE)
    packing = Packing(app_dir, files) if bundle else None
    raise typer.Exit(run_async(_submit(body, packing, server, store, wait, out, as_json)))


class Packing(NamedTuple):
    """What is to be sent along."""

    root: Path
    files: list[str]


async def _submit(
    body: dict[str, Any], packing: Packing | None, server: str | None, store: Path, wait: bool, out: Path, as_json: bool
) -> int:
    async with await joined(server, store) as client:
        try:
            if packing is None:
                accepted = await client.submit(body)
            else:
                accepted = await client.submit(body, bundle=packing.root, files=packing.files)
        except Refused as refused:
            if not as_json:
                raise
            answer = {"accepted": False, "field": refused.field, "reason": refused.reason}
            print_json(answer if refused.retry_after is None else answer | {"retry_after": refused.retry_after})
            return EXIT_FAILED
        if as_json and not wait:
            print_json(accepted)
        elif not as_json:
            console.print(f"job [bold]{accepted.job}[/bold] {'is queued' if accepted.queued else 'is accepted'}")
            if isinstance(accepted.bundle, SentBundle):
                _tell_of(accepted.bundle)
        if accepted.queued and not as_json:
            errors.print("no desk answers; the job is stored and starts once `shoal up` runs")
        if not wait:
            return 0
        return await _wait(client, accepted.job, out, as_json)


def _tell_of(bundle: SentBundle) -> None:
    """What was sent, and what nodes elsewhere need to know."""
    what = f"{len(bundle.files)} file{'s' if len(bundle.files) != 1 else ''}, {size(bundle.size)}"
    console.print(f"bundle {bundle.digest[:12]}: {what}; nodes elsewhere: shoal trust {bundle.submitter}", markup=False)


async def _wait(client: Client, job: str, out: Path, as_json: bool) -> int:
    try:
        state = await follow_job(client, job, quiet=as_json)
    except BaseException:
        errors.print(f"the job goes on without this command: `shoal jobs`, `shoal cancel {job}`, `shoal fetch {job}`")
        raise
    if state.state is not JobPhase.COMPLETED:
        if as_json:
            print_json(state)
        else:
            errors.print(f"job {job} {state.state.value}: {state.reason}", markup=False)
        return EXIT_FAILED
    fetched = await fetch_ended(client, job, out)
    if as_json:
        print_json({"job": job, "state": state.state, "round": state.round, "files": fetched.files})
    else:
        _print_fetched(fetched)
    return 0


def jobs(
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """List the jobs, newest first."""
    found, live = run_async(_jobs(server, store))
    if as_json:
        print_json(found)
        return
    if not live:
        errors.print("no desk answers (start one with `shoal up`); this is what the jobs said last")
    if not found:
        console.print("no jobs yet: `shoal submit examples/digits.toml`")
        return
    table = Table("job", "state", "rounds", "workload", "age", "reason", box=None)
    for row in found:
        age = duration(max(0.0, time.time() - row.submitted_at))
        table.add_row(row.job, row.state.value, f"{row.round}/{row.rounds}", row.workload, age, escape(row.reason))
    console.print(table)


async def _jobs(server: str | None, store: Path) -> tuple[list[JobSummary], bool]:
    async with await joined(server, store) as client:
        try:
            return list(await client.jobs()), True
        except NoResponders:
            states = [s async for s in client.history("shoal.jobs.*.state") if isinstance(s, JobState)]
    rows = [
        JobSummary(
            job=s.job,
            state=s.state,
            reason=s.reason,
            workload=s.request.workload,
            round=s.round,
            rounds=s.rounds,
            submitted_at=s.submitted_at,
        )
        for s in states
    ]
    return sorted(rows, key=lambda row: -row.submitted_at), False


def cancel(
    job: JobArgument,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Shown to whoever asks why.")
    ] = "cancelled by a user",
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """End a job before its time."""

    async def work() -> None:
        async with await joined(server, store) as client:
            await client.cancel(job, reason)

    run_async(work())
    console.print(f"job {job} is cancelled")


def logs(
    job: JobArgument,
    node: Annotated[str | None, typer.Option("--node", metavar="NODE", help="Only this node's lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """What a job's processes printed, and why they failed if they did."""
    run_async(_logs(job, node, follow, server, store))


async def _logs(job: str, node: str | None, follow: bool, server: str | None, store: Path) -> None:
    some = False
    async with await joined(server, store) as client:
        where = f"shoal.nodes.{node or '*'}.*"
        source = client.events(where, past=True) if follow else client.history(where)
        async for event in source:
            if isinstance(event, WorkPrinted) and event.job == job:
                some = True
                for line in event.lines:
                    console.print(f"{event.node} | {line}", markup=False, soft_wrap=True)
            elif isinstance(event, WorkFailed) and event.job == job:
                some = True
                console.print(f"{event.node} ! {event.reason}", markup=False, style="red", soft_wrap=True)
                for line in event.last_lines:
                    console.print(f"{event.node} ! {line}", markup=False, style="red", soft_wrap=True)
        if not some and await client.state(job) is None:
            fail(f"there is no job {job}: `shoal jobs` lists those that are known")
    if not some:
        errors.print(f"job {job} has printed nothing")


def fetch(
    job: JobArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the directory JOB is made.")] = Path("runs"),
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Fetch a job's model, report and loss curve, from any machine."""

    async def work() -> Any:
        async with await joined(server, store) as client:
            return await fetch_job(client, job, out)

    fetched = run_async(work())
    if as_json:
        print_json(fetched)
        return
    _print_fetched(fetched)


def _print_fetched(fetched: Fetched) -> None:
    """The report in short, and the files."""
    for file in fetched.files:
        if file.name == "report.json":
            try:
                console.print(summary(from_json(file.read_bytes())), markup=False, soft_wrap=True)
            except FAULTS as error:  # a node wrote it
                errors.print(f"{file} is no report: {error}", markup=False)
    for file in fetched.files:
        console.print(f"{file}  {size(file.stat().st_size)}", markup=False, soft_wrap=True)
    for what in fetched.missing:
        errors.print(what, markup=False)


def _read_request(path: Path) -> dict[str, Any]:
    try:
        return read_job_file(path)
    except BadJobFile as error:
        fail(str(error), EXIT_USAGE)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(
        rich_help_panel=JOBS,
        epilog=example("shoal submit examples/digits.toml --wait", "shoal submit my_job.toml --bundle"),
    )(submit)
    app.command(rich_help_panel=JOBS, epilog=example("shoal jobs", "shoal jobs --json"))(jobs)
    app.command(rich_help_panel=JOBS, epilog=example("shoal cancel train-7f3k2q"))(cancel)
    app.command(rich_help_panel=JOBS, epilog=example("shoal logs train-7f3k2q --node laptop"))(logs)
    app.command(rich_help_panel=JOBS, epilog=example("shoal fetch train-7f3k2q --out models"))(fetch)
