"""Commands about machines: up, node, agent, nodes, doctor."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bus.cluster import MOST
from bus.server_config import ensure_token, is_loopback, storage_key
from bus.shaping.congestion import CongestionControl
from bus.shaping.profiles import PROFILES
from runners.cli.common import (
    DEFAULT_STORE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    MACHINES,
    JsonOption,
    ServerOption,
    StoreOption,
    console,
    example,
    fail,
    joined,
    print_error,
    print_json,
    print_now,
    run_async,
    size,
    told,
)
from runners.doctor import Check, examine
from runners.fleet_view import NodeRow, look_at_nodes
from runners.members.files import has_register
from runners.up import AGENTS, UpOptions, bring_up
from runners.view.words import emulation
from schemas.measuring import PATIENCE

LinkOption = Annotated[
    str | None, typer.Option("--link", metavar="PROFILE", help="Emulate a link: perfect, good, average, poor or unstable.")
]
CongestionOption = Annotated[str, typer.Option("--cc", metavar="TCP", help="TCP on the emulated link: cubic or bbr.")]
SlowdownOption = Annotated[
    float, typer.Option("--slowdown", metavar="X", min=1.0, help="Emulate a machine so many times slower.")
]
StepTimeOption = Annotated[
    float, typer.Option("--step-time", metavar="MS", min=0.0, help="Pad each step of the starting microbatch to this time.")
]
YieldOption = Annotated[
    bool, typer.Option("--yield-to-owner", help="Pause jobs while programs that aren't Shoal's need CPU or GPU.")
]
YieldShareOption = Annotated[
    float | None,
    typer.Option(
        "--yield-share",
        metavar="PART",
        min=0.0,
        max=0.99,
        help="Slow jobs to this part of their speed instead of pausing them, such as 0.25; implies --yield-to-owner.",
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option("--max-temperature", metavar="C", min=0.0, help="Pause jobs above it, by default 85 degrees; 0: never."),
]
PowerOption = Annotated[
    float | None, typer.Option("--power-limit", metavar="W", min=1.0, help="Pause jobs while a GPU takes more.")
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="KEY", help="Run the code that this submitter sends along, as `shoal trust` does."),
]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", metavar="SITE", help="Where it stands: nodes of one SITE average before one of them sends."),
]
JoinOption = Annotated[
    str | None, typer.Option("--join", metavar="LINE", envvar="SHOAL_JOIN", help="A line of `shoal invite`; once.")
]

ConfineOption = Annotated[
    str | None,
    typer.Option(
        "--confine", metavar="WHOSE", help="Whose code sees none of this machine's files: bundles (default), all, off."
    ),
]
AllowReadOption = Annotated[
    list[str] | None, typer.Option("--allow-read", metavar="PATH", help="What such code may read all the same: a data set.")
]
JobMemoryOption = Annotated[
    float | None, typer.Option("--job-memory", metavar="GB", min=0.5, help="Memory that each job's process may take.")
]

ListenOption = Annotated[
    str | None, typer.Option("--listen", metavar="ADDR", help="Let other machines in, at this address; makes a token.")
]
ServerPortOption = Annotated[
    int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Of the server; 0 for the last one or a free one.")
]
SecureOption = Annotated[
    bool, typer.Option("--secure", help="A key for each member instead of a token: `shoal invite` lets others in.")
]
TlsOption = Annotated[bool, typer.Option("--tls", help="Encrypt connections, with certificates both ways and --secure.")]
EncryptOption = Annotated[bool, typer.Option("--encrypt", help="Encrypt what the server stores; the key is in the store.")]
LeavesOption = Annotated[
    int, typer.Option("--leaves", metavar="PORT", min=0, max=65535, help="Let whole sites in here, by `shoal leaf`.")
]
ClusterOption = Annotated[
    int,
    typer.Option("--cluster", metavar="N", min=0, max=MOST, help="So many servers (3 or 5) that keep all; any may die."),
]
ReplicasOption = Annotated[
    int | None,
    typer.Option("--replicas", metavar="N", min=1, max=5, help="Processes of each agent: one leads, others stand by."),
]


def up(
    listen: ListenOption = None,
    port: ServerPortOption = 0,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=0, help="Nodes to start on this machine, too.")] = 0,
    secure: SecureOption = False,
    tls: TlsOption = False,
    encrypt: EncryptOption = False,
    leaves: LeavesOption = 0,
    cluster: ClusterOption = 0,
    replicas: ReplicasOption = None,
    store: StoreOption = DEFAULT_STORE,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="A server that runs already, instead of one of its own.")
    ] = None,
) -> None:
    """Start a NATS server and all agents; end them with Ctrl-C.

    The first line on standard output is `ready nats://127.0.0.1:PORT`, once jobs can be submitted.
    """
    if server is not None and (listen is not None or port or secure or tls or encrypt or cluster or leaves):
        fail("all but --nodes and --store are for a server of its own: leave out --server", EXIT_USAGE)
    with told():
        members = secure or tls or has_register(store)
        if leaves and members:
            fail("--leaves is for a fleet with a token: the nodes of one with members connect by themselves", EXIT_USAGE)
        wanted = leaves or (listen is not None and not is_loopback(listen))
        token = ensure_token(store) if wanted and not members else None
        key = storage_key(store, make=encrypt) if server is None else ""
    options = UpOptions(
        store=store,
        listen=listen or "127.0.0.1",
        port=port,
        token=token,
        secure=secure or tls,
        tls=tls,
        storage_key=key,
        leaves=leaves,
        cluster=cluster,
        nodes=nodes,
        replicas=replicas,
        server=server,
        say=print_now,
        warn=print_error,
    )
    signalled = run_async(bring_up(options))
    if signalled == "SIGINT":
        raise typer.Exit(EXIT_INTERRUPTED)


def node(
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="By default the host's name, then NAME-2, ...")
    ] = None,
    link: LinkOption = None,
    congestion: CongestionOption = "cubic",
    slowdown: SlowdownOption = 1.0,
    step_time: StepTimeOption = 0.0,
    app_dir: Annotated[
        Path | None, typer.Option("--app-dir", metavar="DIR", help="Where workloads are; by default here.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="A torch device; by default CUDA if there is any.")
    ] = None,
    site: SiteOption = None,
    yield_to_owner: YieldOption = False,
    yield_share: YieldShareOption = None,
    max_temperature: TemperatureOption = None,
    power_limit: PowerOption = None,
    trust: TrustOption = None,
    confine: ConfineOption = None,
    allow_read: AllowReadOption = None,
    job_memory: JobMemoryOption = None,
    join: JoinOption = None,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Make this machine a node of a fleet; end it with Ctrl-C."""
    from runners.node_process import NodeOptions, run_node  # no other command should wait for what a node needs

    _must_be_known(link, congestion)
    from agents.node.limits import CONFINE

    if confine is not None and confine not in CONFINE:
        fail(f"--confine can't be {confine!r}: say {', '.join(CONFINE)}", EXIT_USAGE)
    options = NodeOptions(
        name=name,
        link=link,
        cc=congestion,
        slowdown=slowdown,
        step_time_ms=step_time,
        app_dir=app_dir,
        device=device,
        site=site,
        yield_to_owner=yield_to_owner or bool(yield_share),
        yield_share=yield_share,
        max_temperature_c=max_temperature,
        power_limit_w=power_limit,
        trust=tuple(trust or ()),
        confine=confine,
        allow_read=tuple(allow_read or ()),
        job_memory_gb=job_memory,
        join=join,
        server=server,
        store=store,
    )
    run_async(run_node(options))


def _must_be_known(link: str | None, congestion: str) -> None:
    if link is not None and link not in PROFILES:
        fail(f"no link profile is named {link!r}: there are {', '.join(PROFILES)}", EXIT_USAGE)
    kinds = [kind.value for kind in CongestionControl]
    if congestion not in kinds:
        fail(f"no TCP is named {congestion!r} here: there are {' and '.join(kinds)}", EXIT_USAGE)


def agent(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(AGENTS)}.")],
    replica: Annotated[
        int,
        typer.Option("--replica", metavar="N", min=0, max=5, help="Its number, where the agent has several processes."),
    ] = 0,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Run one agent by itself, as `shoal up` runs all of them."""
    from runners.agent_process import main as run_agent

    if name not in AGENTS:
        fail(f"no agent is named {name!r}: there are {', '.join(AGENTS)}", EXIT_USAGE)
    arguments = [name, "--store", str(store), "--replica", str(replica)]
    raise typer.Exit(run_agent(arguments + (["--server", server] if server else [])))


def nodes(
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """List the nodes: what they are, whether they live, how good their links are."""

    async def work() -> list[NodeRow]:
        async with await joined(server, store) as client:
            return await look_at_nodes(client)

    rows = run_async(work())
    if as_json:
        print_json(rows)
        return
    if not rows:
        console.print("no nodes yet: `shoal node` makes this machine one")
        return
    table = Table("node", "alive", "host", "device", "memory", "torch", "link", "score", "emulated", "jobs", box=None)
    for row in rows:
        table.add_row(
            row.node,
            _alive(row),
            escape(row.host),
            escape(", ".join(row.accelerators) or f"{row.cpus} CPUs"),
            size(row.memory_bytes),
            row.torch,
            row.quality or "?",
            f"{row.score:.0f}" if row.score is not None else "",
            escape(emulation(row.emulated_link, row.slowdown, row.step_time_ms)),
            ", ".join(row.jobs),
        )
    console.print(table)


def _alive(row: NodeRow) -> str:
    if not row.alive:
        return "[red]no[/red]"
    return f"[yellow]{escape(row.yielding)}[/yellow]" if row.yielding else "[green]yes[/green]"


def doctor(
    fleet: Annotated[
        bool, typer.Option("--fleet", help="Measure every node's speed and link, and say what a job would gain.")
    ] = False,
    job: Annotated[
        Path | None, typer.Option("--job", metavar="JOB.toml", help="With --fleet: measure with this job's workload.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=1.0, max=3600.0, help="With --fleet: for each node, at most.")
    ] = PATIENCE,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Check this machine and the way to the server; say how to mend what is wrong.

    With --fleet: have every idle node take some steps and move some megabytes, and forecast what they would make of a job.
    """
    if fleet:
        from runners.cli.measuring import doctor_fleet  # brings the batch controller: no other command should wait for it

        raise typer.Exit(doctor_fleet(server, store, job, seconds, as_json))
    if job is not None:
        fail("--job is for --fleet: add it", EXIT_USAGE)
    checks = run_async(examine(server, store))
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            _print_check(check)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(EXIT_FAILED)


def _print_check(check: Check) -> None:
    mark = {"good": "[green]ok  [/green]", "warning": "[yellow]note[/yellow]", "bad": "[red]bad [/red]"}[check.state]
    console.print(mark, end=" ")
    console.print(f"{check.what}: {check.found}", markup=False, soft_wrap=True)
    if check.mend:
        console.print(f"       {check.mend}", style="dim", markup=False, soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(
        rich_help_panel=MACHINES,
        epilog=example(
            "shoal up",
            "shoal up --nodes 1",
            "shoal up --listen 192.168.1.5",
            "shoal up --tls --listen 192.168.1.5",
            "shoal up --cluster 3 --replicas 2",
            "shoal up --listen 203.0.113.5 --leaves 7422",
        ),
    )(up)
    app.command(
        rich_help_panel=MACHINES,
        epilog=example(
            "shoal node",
            "shoal node --server nats://TOKEN@192.168.1.5:4222 --name attic",
            "shoal node --yield-to-owner",
            "shoal node --join shoal-join:eyJzZXJ2...",
        ),
    )(node)
    app.command(rich_help_panel=MACHINES, epilog=example("shoal agent batch_controller"))(agent)
    app.command(rich_help_panel=MACHINES, epilog=example("shoal nodes", "shoal nodes --json"))(nodes)
    app.command(
        rich_help_panel=MACHINES, epilog=example("shoal doctor", "shoal doctor --fleet --job examples/digits.toml")
    )(doctor)
