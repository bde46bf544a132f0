"""Pictures of a server's page, light, dark and on a phone: `python docs/page.py [FOLDER]`, out/page by default."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pintpot

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]
from browser import Browser  # noqa: E402  (neither folder is a package)
from smollm2 import model  # noqa: E402

SCREENS = {"light": (1200, 900, False), "dark": (1200, 900, True), "phone": (390, 844, False)}
QUESTION = "Why is the sky blue? Answer in two sentences."


def take(url: str, serving: Any, folder: Path) -> None:
    """Ask something, and take pictures when it is answered."""
    try:
        with Browser() as page:
            page.open(url)
            page.find("document.getElementById('heat').value = 0; document.getElementById('most').value = 90")
            page.find(f"document.getElementById('text').value = {QUESTION!r}")
            page.find("document.getElementById('send').click()")
            page.wait("messages.length === 2")
            page.wait("!document.getElementById('planning').hidden")
            for name, screen in SCREENS.items():
                page.screen(*screen)
                page.picture(folder / f"{name}.png")
    finally:
        serving.stop()


if __name__ == "__main__":
    into = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else ROOT / "out" / "page"
    into.mkdir(parents=True, exist_ok=True)
    pintpot.serve(
        model(), memory="700MB", context=512, batch=4, port=0,
        ready=lambda url, serving: threading.Thread(target=take, args=(url, serving, into)).start(),
    )  # fmt: skip
