"""Runs the emulated API in a process of its own: `python -m orchestration.landing.emulator --items 1000000`.

Belongs here: the command line of benches. Does not belong here: `matching emulate`, which is for people.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from orchestration.landing.emulator.faults import Fault, parse_fault
from orchestration.landing.emulator.server import serve
from orchestration.landing.emulator.world import SIZES, World, build_world, catalogue_world
from orchestration.landing.errors import LandingError

_SEED = 20_260_630


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; write one line, the base URL, once the port is open."""
    try:
        options = _parser().parse_args(arguments)
        faults = [_fault(text, options.only_pages) for text in options.fault]
        with contextlib.suppress(KeyboardInterrupt):
            serve(
                _world(options),
                port=options.port,
                faults=faults,
                seed=options.seed,
                day=options.day,
                cap=options.cap,
                cache_items=options.cache_items,
                on_ready=_announce,
            )
    except LandingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestration.landing.emulator", description=main.__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--items", type=int, help="a catalogue of that many items and no users")
    what.add_argument("--size", default="small", choices=sorted(SIZES), help="a sample world (default: small)")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one (default)")
    parser.add_argument("--fault", action="append", default=[], help="name or name:rate; repeatable")
    parser.add_argument("--only-pages", action="store_true", help="faults leave probes (hits=1) alone")
    parser.add_argument("--seed", type=int, default=_SEED, help="of the world and of the faults")
    parser.add_argument("--day", type=int, default=0, help="days after the anchor that have passed")
    parser.add_argument("--cap", type=int, default=50_000, help="last offset answered, and where totals stop")
    parser.add_argument("--cache-items", action="store_true", help="keep up to 2.6 GB of rendered items")
    return parser


def _world(options: argparse.Namespace) -> World:
    if options.items is not None:
        return catalogue_world(options.items, options.seed)
    return build_world(options.size, options.seed)


def _fault(text: str, only_pages: bool) -> Fault:
    fault = parse_fault(text)
    return Fault(fault.name, fault.rate, only_pages=only_pages)


def _announce(base_url: str) -> None:
    sys.stdout.write(f"{base_url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
