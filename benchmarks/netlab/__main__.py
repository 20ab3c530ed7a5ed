"""The laboratory by hand. Node i has the address 10.77.0.(i+1), and the name `nodeI` inside the laboratory."""

import argparse
import json
import os
import sys
from typing import Any, get_args

from benchmarks.netlab.lab import PROFILES, Congestion, LabError, NetLab, address_of
from benchmarks.netlab.verify import verify_controls, verify_profiles

EXAMPLE = """example:
  python -m benchmarks.netlab up --nodes 3 --cc cubic
  python -m benchmarks.netlab set 2 poor rate=5 loss=8      a profile, and single figures
  python -m benchmarks.netlab exec 2 -- ping node0          any program, on node 2
  python -m benchmarks.netlab order spike 2 ms=800 for=5    router.c lists the orders: cut, heal, block, stats, ...
  python -m benchmarks.netlab probe 0 2                     round trips, loss, goodput of one TCP stream
  python -m benchmarks.netlab down
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.netlab",
        description="Packet-level bad networks between network namespaces. Needs root, gcc and iproute2.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lab", default="lab", help="the laboratory's name, where there are several")
    orders = parser.add_subparsers(dest="do", required=True, metavar="COMMAND")
    up = orders.add_parser("up", help="make namespaces and start the router")
    up.add_argument("--nodes", type=int, default=4)
    up.add_argument("--profile", default="perfect", choices=PROFILES)
    up.add_argument("--cc", default="bbr", choices=get_args(Congestion), help="TCP's congestion control")
    up.add_argument("--mtu", type=int, default=1500)
    up.add_argument("--seed", type=int, default=1)
    orders.add_parser("down", help="end everything")
    run = orders.add_parser("exec", help="run a program on a node")
    run.add_argument("node", type=int)
    run.add_argument("program", nargs=argparse.REMAINDER)
    change = orders.add_parser("set", help="change a node's link")
    change.add_argument("node", help="a number, or all")
    change.add_argument(
        "what", nargs="+", help="a profile's name, or figure=value (rtt=MIN:MAX, loss, rate, up, down, ...)"
    )
    order = orders.add_parser("order", help="tell the router something")
    order.add_argument("words", nargs="+")
    measure = orders.add_parser("probe", help="measure the way from one node to another")
    measure.add_argument("near", type=int)
    measure.add_argument("far", type=int)
    measure.add_argument("--seconds", type=float, default=10.0)
    verify = orders.add_parser("verify", help="measure every profile, or the controls, in a laboratory of its own")
    verify.add_argument("what", choices=("profiles", "controls"))
    verify.add_argument("--seconds", type=float, default=10.0)
    return parser


def _do(asked: argparse.Namespace) -> None:
    lab = NetLab(lab=asked.lab)
    match asked.do:
        case "up":
            lab = NetLab(asked.nodes, asked.lab, asked.profile, asked.cc, asked.mtu, asked.seed).up()
            for node in range(lab.nodes):
                print(node, address_of(node), lab.namespace(node))
        case "down":
            lab.down()
        case "exec":
            program = asked.program[1:] if asked.program[:1] == ["--"] else asked.program
            argv = lab.command(asked.node, program)
            os.execvp(argv[0], argv)
        case "set":
            profiles = [word for word in asked.what if "=" not in word]
            figures: dict[str, Any] = dict(word.split("=", 1) for word in asked.what if "=" in word)
            lab.set(asked.node, profiles[0] if profiles else None, **figures)
        case "order":
            print(lab.order(" ".join(asked.words)))
        case "probe":
            print(json.dumps(lab.probe(asked.near, asked.far, asked.seconds)))
        case "verify":
            rows = verify_profiles(asked.seconds) if asked.what == "profiles" else verify_controls()
            for row in rows:
                print(json.dumps(row), flush=True)


def main() -> int:
    """See the parser's help."""
    try:
        _do(_parser().parse_args())
    except LabError as error:
        print(f"netlab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
