"""Programs of revisions, built once each.

A build is kept under the hash of its tree (with the patch, where one was applied), the compiler and its flags, so the
same tree is never built twice, whatever commit it came from. All builds share one target folder: what they depend on is
compiled once.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Builds that are kept; each is some tens of megabytes.
KEPT = 12


class BuildError(Exception):
    """Why there is no program."""


class Builds:
    """The builds of a repository in a cache folder."""

    def __init__(self, repository, cache):
        self.repository = Path(repository)
        self.cache = Path(cache)

    def tree_of(self, revision):
        """The hash of a revision's tree."""
        return self._git("rev-parse", "--verify", f"{revision}^{{tree}}")

    def working_tree(self):
        """The hash of the tree as it is now, changes that are not committed included."""
        untracked = self._git("ls-files", "--others", "--exclude-standard")
        if untracked:
            raise BuildError("not tracked by git, so not measured; add or remove them:\n" + untracked)
        return self.tree_of(self._git("stash", "create") or "HEAD")

    def patched(self, tree, patch):
        """The hash of a tree with a patch applied; the checkout and its index stay as they are."""
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._git("read-tree", tree, **index)
            self._git("apply", "--cached", "-C1", "--recount", str(Path(patch).resolve()), **index)
            return self._git("write-tree", **index)

    def program(self, tree):
        """The path of a tree's release program, built if it is not there."""
        target = self.cache / "builds" / self._key(tree) / "mira"
        if target.exists():
            os.utime(target.parent)
            return target
        print(f"gate: building {tree[:12]}", file=sys.stderr, flush=True)
        source = self.cache / "tree"
        self._extract(tree, source)
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        # The tree's own Makefile says where its libraries lie.
        for name in ("ROCKSDB_LIB_DIR", "ROCKSDB_INCLUDE_DIR"):
            environment.pop(name, None)
        environment["CARGO_TARGET_DIR"] = str(self.cache / "target")
        if subprocess.run(["make", "release"], cwd=source, env=environment, stdout=sys.stderr, stderr=sys.stderr).returncode != 0:
            raise BuildError(f"{tree[:12]} does not build")
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own first: a copy that was interrupted is no build.
        shutil.copy2(self.cache / "target" / "release" / "mira", target.with_suffix(".part"))
        target.with_suffix(".part").rename(target)
        self._forget_old()
        return target

    def _extract(self, tree, folder):
        """Fills a folder with a tree. Files get the present time, or cargo would take an older file for a built one."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        archive = subprocess.Popen(["git", "-C", self.repository, "archive", "--format=tar", tree], stdout=subprocess.PIPE)
        unpacked = subprocess.run(["tar", "--extract", "--touch", "--directory", folder], stdin=archive.stdout)
        archive.stdout.close()
        if archive.wait() != 0 or unpacked.returncode != 0:
            raise BuildError(f"{tree[:12]} could not be unpacked into {folder}")

    def _key(self, tree):
        compiler = subprocess.run(["rustc", "-vV"], cwd=self.repository, capture_output=True, text=True).stdout
        flags = compiler + os.environ.get("RUSTFLAGS", "")
        return f"{tree[:20]}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"

    def _forget_old(self):
        builds = sorted((self.cache / "builds").iterdir(), key=lambda build: build.stat().st_mtime)
        for build in builds[:-KEPT]:
            shutil.rmtree(build, ignore_errors=True)

    def _git(self, *arguments, **environment):
        done = subprocess.run(
            ["git", "-C", self.repository, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise BuildError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()
