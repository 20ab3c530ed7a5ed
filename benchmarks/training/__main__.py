"""The command line of the training benchmarks."""

import argparse
import functools
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.netlab.lab import Congestion, LabError
from benchmarks.training import where
from benchmarks.training.peer_race import PEERS, run_peer
from benchmarks.training.race import Setting, run_shoal
from benchmarks.training.results import Result, cached, fastest, keep, kept, line
from benchmarks.training.scenarios import SCENARIOS
from benchmarks.training.summary import noise_words, summary, words
from benchmarks.training.tasks import TASKS

HELP = """Train one model on the same data to the same held-out loss, with Shoal and with others, over the same bad links.

Four workers and a coordinator are network namespaces; a router between them delays, queues and drops packets
(benchmarks/netlab; root, gcc and iproute2 are needed). Every step is padded to a fixed time, so that the ideal is exact:
the steps that averaging all gradients at no cost would need, divided by the steps that the machines take a second.
"""

EXAMPLE = """examples:
  python -m benchmarks.training shoal mixed --cc bbr           one run of Shoal, with where its time went
  python -m benchmarks.training shoal slow --seeds 0,1,2 --request local_steps=20
  python -m benchmarks.training shoal perfect --site lab       the same workers, told that they stand near each other
  benchmarks/training/peers/install.sh base                    virtual environments for peers, apart from Shoal's
  python -m benchmarks.training ddp perfect                    a peer
  python -m benchmarks.training compare mixed --cc cubic       the two fastest, one after the other
  python -m benchmarks.training average shoal --link average   averaging 25 MB over four workers
  python -m benchmarks.training suite --seeds 0 1 2 3 4        Shoal in everything that is judged
  python -m benchmarks.training table                          ratios with their spread, the noise, and the peers' figures
  python -m benchmarks.training plots --goals docs/goals.png   pictures of runs, and the ratios against their goals
"""


PADDED = 5  # times what a step costs alone: four workers, their server and the router then fit on two cores


def parser() -> argparse.ArgumentParser:
    """All commands."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=HELP,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="do", required=True, metavar="COMMAND")
    runs = _options()
    scenarios = "; ".join(f"{s.name}: {s.words}" for s in SCENARIOS.values())
    for tool in ("shoal", *PEERS):
        words = "run Shoal" if tool == "shoal" else f"run {PEERS[tool].words}"
        run = commands.add_parser(tool, parents=[runs], help=words, description=f"{words}. Scenarios: {scenarios}.")
        run.add_argument("scenario", choices=SCENARIOS)
    compare = commands.add_parser("compare", parents=[runs], help="run the two fastest of a scenario, one after the other")
    compare.add_argument("scenario", choices=SCENARIOS)
    compare.add_argument("--tools", help="these instead, separated by commas")
    averaging = commands.add_parser("average", parents=[runs], help="seconds to average 25 MB over four workers")
    averaging.add_argument("tool", choices=("shoal", "gloo", "hivemind", "flower"))
    averaging.add_argument("--link", default="average", help="everybody's profile")
    commands.add_parser("suite", parents=[runs], help="Shoal in every scenario that is judged, each seed; some 25 minutes")
    ideal = commands.add_parser("ideal", parents=[runs], help="work the ideal out: steps and seconds without a network")
    ideal.set_defaults(scenario="perfect")
    commands.add_parser("table", parents=[runs], help="results that are kept, and the cached figures")
    plots = commands.add_parser("plots", parents=[runs], help="draw results that are kept as PNG files")
    plots.add_argument("--goals", type=Path, metavar="PNG", help="here, too: Shoal's ratios against what is required")
    return made


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--task", default="gpt", choices=TASKS, help="1.06 M parameters on text, or 84,000 on digits")
    options.add_argument("--cc", default="bbr", choices=get_args(Congestion), help="TCP's congestion control: run both")
    options.add_argument("--seeds", nargs="+", default=["0"], metavar="SEED", help="one run each")
    options.add_argument("--budget", type=float, default=170.0, metavar="S", help="seconds until a run is given up")
    options.add_argument("--rounds", type=int, default=8, help="of averaging alone")
    options.add_argument("--out", type=Path, default=Path("runs/training"), help="logs, results.jsonl and pictures")
    options.add_argument(
        "--request", action="append", default=[], metavar="FIELD=VALUE", help="of Shoal's job, besides the defaults"
    )
    options.add_argument("--settings", type=Path, metavar="TOML", help="a shoal.toml for Shoal's agents and nodes")
    options.add_argument("--site", default="", metavar="NAME", help="all of Shoal's nodes stand there: `shoal node --site`")
    options.add_argument(
        "--step-ms",
        metavar="MS",
        help="pad steps to this, not to the task's own; `auto`: five times what a step costs here, as the tasks' own were "
        "where they were chosen. Peers' cached figures don't hold then: take another --out",
    )
    options.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of a peer's driver")
    options.add_argument("--nice", type=int, metavar="N", help="priority of all processes, where the machine is shared")
    options.add_argument("--json", action="store_true", help="results as lines of JSON")
    return options


def fields(words: list[str]) -> dict[str, Any]:
    """`name=value` words; a value is JSON if it can be, else text."""
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def setting_of(asked: argparse.Namespace, seed: int) -> Setting:
    """What is to be run with this seed."""
    return Setting(
        scenario=SCENARIOS[asked.scenario],
        task=asked.task,
        congestion=asked.cc,
        seed=seed,
        budget=asked.budget,
        request=fields(asked.request),
        settings=asked.settings,
        out=asked.out,
        site=asked.site,
        step_ms=step_ms(asked.step_ms, asked.task),
    )


@functools.cache
def step_ms(words: str | None, task: str) -> float | None:
    """What steps are padded to, in ms; None for the task's own.

    Raises:
        LabError: it is neither `auto` nor a number.
    """
    if words == "auto":
        from benchmarks.training.reference import step_seconds  # torch, which the others do without

        return round(PADDED * 1e3 * step_seconds(task), 0)
    try:
        return float(words) if words is not None else None
    except ValueError:
        raise LabError(f"--step-ms {words}: give milliseconds, or auto") from None


def run(tool: str, asked: argparse.Namespace, seed: int) -> Result:
    """One run, kept and told."""
    setting = setting_of(asked, seed)
    result = run_shoal(setting) if tool == "shoal" else run_peer(tool, setting, fields(asked.set))
    keep(result, asked.out)
    if asked.json:
        print(json.dumps(asdict(result) | {"ratio": result.ratio}), flush=True)
    else:
        print(line(result), flush=True)
        if tool == "shoal":
            print("\n".join(f"  {row}" for row in where.told(result)), flush=True)
    return result


def compare(asked: argparse.Namespace, seeds: list[int]) -> None:
    """The fastest two side by side: the same seeds, alternating, so that other work on the machine meets both."""
    tools = asked.tools.split(",") if asked.tools else fastest(kept(asked.out), asked.scenario, asked.task, asked.cc)[:2]
    if len(tools) < 2:
        raise LabError(
            f"fewer than two tools are known to get there ({', '.join(tools) or 'none'}): name them with --tools"
        )
    times: dict[str, list[Result]] = {tool: [] for tool in tools}
    for seed in seeds:
        for tool in tools:
            times[tool].append(run(tool, asked, seed))
    for tool, results in times.items():
        ratios = sorted(result.ratio for result in results)
        reached = f"{sum(result.reached for result in results)} of {len(results)} got there"
        print(f"{tool}: {ratios[len(ratios) // 2]:.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}), {reached}")


SUITE: tuple[tuple[str, str, Congestion], ...] = (
    ("perfect", "gpt", "bbr"),
    ("slow", "gpt", "bbr"),
    ("kill", "gpt", "bbr"),
    ("mixed", "gpt", "bbr"),
    ("mixed", "gpt", "cubic"),
    ("mixed", "digits", "bbr"),
    ("changing", "gpt", "bbr"),
    ("changing", "gpt", "cubic"),
)


def suite(asked: argparse.Namespace, seeds: list[int]) -> None:
    """Shoal in every scenario that is judged, then its averaging; goes on where one can't be had."""
    for seed in seeds:
        for asked.scenario, asked.task, asked.cc in SUITE:
            try:
                run("shoal", asked, seed)
            except LabError as error:
                print(f"{asked.scenario} {asked.task} {asked.cc} seed {seed}: {error}", file=sys.stderr)
    for asked.cc in get_args(Congestion):
        try:
            average("shoal", "average", asked)
        except LabError as error:
            print(f"averaging, {asked.cc}: {error}", file=sys.stderr)


def average(tool: str, link: str, asked: argparse.Namespace) -> None:
    """Averaging alone, told and kept."""
    from benchmarks.training.averaging import run_averaging  # torch, which the others do without

    found = run_averaging(tool, link, asked.cc, asked.rounds, asked.budget, asked.out, fields(asked.request))
    with (asked.out / "averaging.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found), flush=True)


def show_table(asked: argparse.Namespace) -> None:
    """What is kept here, run by run and with its spread, and what is cached."""
    results = kept(asked.out)
    if asked.json:
        print(json.dumps([asdict(row) for row in summary(results)]))
        return
    for result in results:
        print(line(result))
    print("\nmedian ratio (least to most) of the runs that got there")
    print("\n".join(words(row) for row in summary(results)))
    print(noise_words(results))
    figures = cached()
    print(f"\npeers, measured {figures['date']} by `{figures['command']}` ({figures['machine']}):")
    for row in figures["figures"]:
        time = f"{row['seconds']:.0f} s, {row['ratio']:.2f}x" if row["seconds"] else row["words"]
        print(f"  {row['scenario']:8} {row['task']:6} {row['congestion']:6} {row['tool']:10} {time}")


def do(asked: argparse.Namespace) -> None:
    """Carry out a command."""
    seeds = [int(seed) for some in asked.seeds for seed in some.split(",")]
    if asked.nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, asked.nice)
    match asked.do:
        case "compare":
            compare(asked, seeds)
        case "average":
            average(asked.tool, asked.link, asked)
        case "suite":
            suite(asked, seeds)
        case "ideal":
            from benchmarks.training.reference import reference_steps

            for seed in seeds:
                steps, task = reference_steps(asked.task, seed), TASKS[asked.task]
                print(f"{asked.task}, seed {seed}: {steps} steps, {steps * task.step_ms / 1e3:.1f} s")
        case "table":
            show_table(asked)
        case "plots":
            from benchmarks.training.plots import draw_all, draw_goals

            paths = draw_all(kept(asked.out), asked.out)
            if asked.goals is not None:
                paths.append(draw_goals(kept(asked.out), asked.goals))
            for path in paths:
                print(path)
        case tool:
            for seed in seeds:
                run(tool, asked, seed)


def main() -> int:
    """See the parser's help."""
    try:
        do(parser().parse_args())
    except LabError as error:
        print(f"benchmarks.training: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks.training: interrupted; namespaces and processes are gone", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
