from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_plugin_registers_without_loading_the_console(repo: Path) -> None:
    program = (
        "import sys, understudy_plugin as plugin\n"
        "registered = plugin.UnderstudyPlugin\n"
        "assert registered.fastapi_apps[0]['url_prefix'] == '/understudy'\n"
        "assert registered.external_views[0]['destination'] == 'nav'\n"
        "loaded = [name for name in sys.modules if name.startswith('understudy.console')]\n"
        "assert not loaded, loaded\n"
    )
    path = str(repo / "plugins")
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{program}"], check=True)
