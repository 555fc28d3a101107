"JupyterLab for tests: started with settings of its own, and watched until it has nothing to do."
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


@contextmanager
def running(home: Path, work: Path):
    "The address of JupyterLab on the notebooks of `work`."
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    silent = json.dumps(dict(fetchNews="false", checkForUpdates=False))
    (quiet / "notification.jupyterlab-settings").write_text(silent)
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    folders = dict(JUPYTER_CONFIG_DIR="config", JUPYTER_DATA_DIR="data",
                   JUPYTERLAB_WORKSPACES_DIR="workspaces", JUPYTERLAB_SETTINGS_DIR="settings")
    env = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    env |= dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    env.pop("MPLBACKEND", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={work}"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    address = f"http://localhost:{port}"
    for _ in range(120):
        try: urllib.request.urlopen(f"{address}/api", timeout=2); break
        except OSError: time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(20)


def is_idle(address: str, name: str) -> bool:
    "Whether the kernel of a notebook is there and has nothing to do."
    with urllib.request.urlopen(f"{address}/api/sessions") as answer: sessions = json.load(answer)
    kernels = [s["kernel"] for s in sessions if s["path"] == f"{name}.ipynb"]
    return any(k["execution_state"] == "idle" and k["connections"] for k in kernels)


def wait_until_idle(address: str, name: str, seconds: float = 240, times: int = 10) -> None:
    "Until it was found so often, every 0.3 seconds, without a break."
    quiet, end = 0, time.time() + seconds
    while quiet < times:
        quiet = quiet + 1 if is_idle(address, name) else 0
        assert time.time() < end, f"{name} still runs"
        time.sleep(0.3)
