#!/usr/bin/env python3
"""Breaks a cluster of real processes on purpose and compares what it exports with an undisturbed run.

Modes: --kills K --runs R (faults at random steps), --minutes M --every E (a soak), --elastic, --coordinator N,
--recovery-times N, --rolling. Figures are printed as Markdown and appended to tests/bench/RESULTS.md. The exit
code is 0 if every run was as it must be, 1 if not. See tests/chaos/README.md.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path.insert(0, str(REPO / "tests/bench"))

import run as bench  # noqa: E402

import faults  # noqa: E402
import modes  # noqa: E402
import net as nets  # noqa: E402
from stage import BIN, ChaosError  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_argument_group("modes; several are run one after another")
    mode.add_argument("--kills", type=int, metavar="K", help="so many faults of --faults (default: kills of workers), spread over --runs")
    mode.add_argument("--minutes", type=float, metavar="M", help="soak: the undisturbed job takes about so long")
    mode.add_argument("--elastic", action="store_true", help="1, 2, 3, 4 workers and a changing number")
    mode.add_argument("--coordinator", type=int, metavar="N", help="kill coordinators so many times during a run")
    mode.add_argument("--recovery-times", type=int, metavar="N", help="seconds from so many kills of a worker to the next step")
    mode.add_argument("--rolling", action="store_true", help="replace coordinators and workers one by one by SIGTERM")
    how = parser.add_argument_group("how")
    how.add_argument("--runs", type=int, default=2)
    how.add_argument("--every", type=float, default=10, metavar="E", help="seconds between faults of a soak")
    how.add_argument("--faults", metavar="KIND,KIND", help=f"of {', '.join(faults.KINDS)}; default: kill, in a soak kill,stall,partition")
    how.add_argument("--seed", type=int, default=1, help="the plan of faults is a function of it")
    how.add_argument("--steps", type=int, default=2000)
    how.add_argument("--workers", type=int, default=4)
    how.add_argument("--spares", type=int, default=0, help="workers besides, which stand by")
    how.add_argument("--ranks-per-worker", type=int, default=1)
    how.add_argument("--restart-delay", type=float, default=0.0, metavar="S", help="seconds before a dead process is started again")
    how.add_argument("--coordinators", type=int, default=1, help="more than one need --etcd")
    how.add_argument("--etcd", action="store_true", help="coordinators keep their state in an etcd of this run's (ETCD: its path)")
    how.add_argument("--ha-flags", default="--store etcd:{etcd} --advertise {url}", help="flags of a coordinator with etcd")
    how.add_argument("--nice", type=int, default=0, metavar="N", help="niceness of coordinators and etcd, which on hosts of their own would take no CPU from workers")
    how.add_argument("--coordinator-flags", default="", help="further flags of every coordinator, such as --coordinator-flags='--heartbeat-interval 100ms'")
    how.add_argument("--worker-flags", default="", help="further flags of every worker, such as --worker-flags='--peer-silence 300ms'")
    how.add_argument("--max-restarts", type=int, default=100, help="the coordinator's flag of this name")
    how.add_argument("--peer", type=int, default=5, metavar="N", help="kills of torchrun's workers beside --recovery-times; 0: none")
    how.add_argument("--disk", type=int, metavar="MB", help="a data directory of this size, for fault `disk`; needs root")
    how.add_argument("--no-netns", action="store_true", help="all processes on one host: no root, no partitions")
    how.add_argument("--job", type=Path, default=HERE / "job.yaml")
    how.add_argument("--limit", type=float, default=1200, metavar="S", help="longest that a run may take")
    how.add_argument("--keep", action="store_true", help="leave exports where they are")
    how.add_argument("--folder", type=Path, help="where clusters and logs go; default: a temporary folder, kept if something failed")
    how.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    args = parser.parse_args()
    if args.coordinators > 1 and not args.etcd:
        parser.error("--coordinators above 1 share a store: pass --etcd")
    if args.coordinators < 1 or args.workers < 1 or args.runs < 1 or args.steps < 100:
        parser.error("--coordinators, --workers and --runs are at least 1, --steps 100")
    unknown = [kind for kind in (args.faults or "").split(",") if kind and kind not in faults.KINDS]
    if unknown:
        parser.error(f"--faults: {', '.join(unknown)} is none of {', '.join(faults.KINDS)}")
    args.chosen = [(name, act) for name, act in MODES.items() if getattr(args, name)]
    if not args.chosen:
        parser.error("say what to do: " + ", ".join("--" + name.replace("_", "-") for name in MODES))
    return args


MODES = {"kills": modes.kills, "minutes": modes.soak, "elastic": modes.elastic, "coordinator": modes.coordinator,
         "recovery_times": modes.recovery_times, "rolling": modes.rolling}


def prepare(args):
    for name in ("espalier", "espalier-coordinator", "espalier-worker"):
        if not (BIN / name).is_file():
            raise ChaosError(f"there is no {BIN / name}: `make build`, or set ESPALIER_BIN_DIR")
    if args.job == HERE / "job.yaml" and not (REPO / ".espalier/data/digits/meta.json").is_file():
        subprocess.run([sys.executable, REPO / "recipes/digits/build.py"], check=True, stdout=sys.stderr)


def network(args):
    """The hosts' network: a context."""
    names = [f"w{index}" for index in range(max(4, args.workers + args.spares))]
    names += [f"c{index}" for index in range(args.coordinators)] + ["e0"]
    if args.no_netns:
        return nets.Here(names)
    missing = nets.why_not()
    if missing:
        raise ChaosError(missing)
    return nets.Namespaces(names)


def said(words):
    """The command's words, but for where things were kept here."""
    rest = iter(words)
    for word in rest:
        if word == "--folder":
            next(rest, None)
        elif word != "--dry" and not word.startswith("--folder="):
            yield word


def main():
    args = arguments()
    prepare(args)
    if args.folder is None:
        args.folder = Path(tempfile.mkdtemp(prefix="espalier-chaos-"))
    args.folder = args.folder.resolve()
    fine = True
    with network(args) as net:
        for name, act in args.chosen:
            asked = (args.faults or ("kill,stall,partition" if name == "minutes" else "kill")).split(",")
            args.kinds, missing = faults.possible([kind for kind in asked if kind], net, args)
            for kind, why in missing.items():
                print(f"no fault `{kind}`: it {why}", flush=True)
            if not args.kinds:
                raise ChaosError("no kind of fault is left")
            lines, held = act(net, args)
            fine &= held
            hosts = "hosts are network namespaces" if net.apart else "all processes on one host"
            words = " ".join(said(sys.argv[1:]))
            verdict = "" if held else " **Not as it must be.**"
            head = [bench.title(), "", f"`python3 tests/chaos/chaos.py {words}`; {hosts}.{verdict}", ""]
            bench.keep(head + lines, args.dry)
    print(f"\nlogs: {args.folder}", flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    # SIGTERM ends it as ctrl-c does: processes, namespaces and mounts go with it, also where a second one comes.
    import signal

    def stop(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except (ChaosError, nets.NetError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"chaos.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
