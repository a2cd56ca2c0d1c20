"""The browser's side: the module `matching.js`, the playground's page, and the pinned packages that run them in Node.

Belongs here: files, and installing packages. Does not belong here: converting or computing anything (`ml.tfjs`), so
that a page can be served without TensorFlow.
"""

import shutil
import subprocess
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from ml.errors import NodeMissingError

BUNDLE = "tfjs"
"""Folder of the bundle within a run's."""
FORMAT = 2
"""Of bundles and item files; `matching.js` reads this one and refuses others."""
MODULE = ("matching.js", "matching.d.ts")
PLAYGROUND = ("index.html", "playground.css", "playground.js")
LIBRARIES = {
    "tf-core.min.js": "tfjs-core",
    "tf-backend-cpu.min.js": "tfjs-backend-cpu",
    "tf-converter.min.js": "tfjs-converter",
}
"""What a page without a build step loads, in this order, and the package each is in."""
INSTALL_SECONDS = 300


def browser_file(name: str) -> str:
    """Return the text of a file of this package."""
    return browser_path(name).read_text(encoding="utf-8")


def browser_path(name: str) -> Path:
    """Return where a file of this package lies."""
    return Path(str(resources.files("ml.browser"))) / name


def installed_in(node_modules: Path) -> bool:
    """Say whether the packages are in a node_modules folder."""
    return all((node_modules / "@tensorflow" / package).is_dir() for package in LIBRARIES.values())


def library_path(node_modules: Path, name: str) -> Path:
    """Return where the file of a library lies that a page loads."""
    return node_modules / "@tensorflow" / LIBRARIES[name] / "dist" / name


def install_node_modules(folder: Path, environment: Mapping[str, str]) -> Path:
    """Install the pinned packages into `folder`, unless they are there, and return its node_modules.

    `environment` is all that npm sees: hand it PATH and HOME, not what this process knows.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NodeMissingError("npm is not on the PATH")
    lock, stamp, modules = browser_file("package-lock.json"), folder / "installed", folder / "node_modules"
    if modules.is_dir() and stamp.exists() and stamp.read_text(encoding="utf-8") == lock:
        return modules
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(browser_file("package.json"), encoding="utf-8")
    (folder / "package-lock.json").write_text(lock, encoding="utf-8")
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NodeMissingError(f"npm did not install the TensorFlow.js packages within {INSTALL_SECONDS} s") from error
    if done.returncode:
        raise NodeMissingError("npm could not install the TensorFlow.js packages")
    stamp.write_text(lock, encoding="utf-8")
    return modules
