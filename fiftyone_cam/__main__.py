"""``python -m fiftyone_cam``: make the plugin known to FiftyOne, and check the installation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from fiftyone_cam import _install, _mongod
from fiftyone_cam.core.errors import CamError, DatabaseError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 not possible (the reason is on stderr), 2 no such command."""
    parser = argparse.ArgumentParser(
        prog="python -m fiftyone_cam", description="See where an image classifier looks, over a whole FiftyOne dataset."
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("install", help="make the plugin known to FiftyOne: link it into its plugins directory")
    commands.add_parser("uninstall", help="remove that link")
    doctor = commands.add_parser("doctor", help="show versions and check that FiftyOne has a database")
    doctor.add_argument("--fix", action="store_true", help="if it has none, install MongoDB from PyPI where possible")
    options = parser.parse_args(arguments)
    try:
        if options.command == "install":
            print(f"FiftyOne finds the plugin at {_install.install()}")
            print("Next: fiftyone app launch --wait -1 (it survives a reload); then press ` and type: activation maps")
        elif options.command == "uninstall":
            target = _install.uninstall()
            print(f"Removed {target}" if target else "There was nothing to remove")
            print("Next: restart the App. The package itself is removed by: pip uninstall fiftyone_cam")
        elif options.command == "doctor":
            for package in ("fiftyone_cam", "fiftyone", "torch", "torchvision"):
                print(f"{package:<14}{_version(package)}")
            print(f"{'Python':<14}{sys.version.split()[0]}")
            print(f"{'database':<14}{_mongod.repair() if options.fix else _mongod.check()}")
        else:
            parser.print_help()
    except CamError as error:
        print(f"fiftyone_cam: {error}", file=sys.stderr)
        if isinstance(error, DatabaseError) and not options.fix:
            print("To repair it: python -m fiftyone_cam doctor --fix", file=sys.stderr)
        return 1
    return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
