"""Draw the screens of the page ``trouble.md``: what a terminal shows at each of its steps, as SVG.

python docs/screens.py --record   run the service, make each of its mistakes, and keep what the tools say
python docs/screens.py            draw that
python docs/screens.py --check    exit code 1 if the images are not what this would draw
"""

from __future__ import annotations

import html
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
DATA = DOCS / "data" / "trouble.json"
IMAGES = DOCS / "pages" / "images"
SERVICE = "examples/troubled_service.py"
PATIENCE = 30.0  # seconds
REPORT = r"the loop (?:has not turned for|goes on after)"
#: What the page tells, in its order; each has an image of that name.
STEPS = ("lookup", "check", "report", "subscribe", "transfer")

Answer = dict[str, Any]


class Troubled:
    """The service, started as the page says, and its clients."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.env = (env or {**os.environ, "PYTHONPATH": str(ROOT)}) | {"XDG_RUNTIME_DIR": str(folder)}
        self.log = folder / "log"
        self.clients: list[tuple[str, int]] = []
        self.open: list[socket.socket] = []
        command = ["run", "--top", "--watchdog", "100ms", SERVICE, "--port", "0", *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "proactorx", *command],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
            )
        self.port = int(self.wait_for(r"listening on .*:(\d+)\n")[1])

    def wait_for(self, pattern: str, start: int = 0) -> re.Match[str]:
        """What it prints, from this place on, once it has this."""
        end = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.log.read_text()[start:])) is None:
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"no {pattern!r} in:\n{self.log.read_text()}")
            time.sleep(0.01)
        return found

    def send(self, line: str) -> socket.socket:
        """A new client, which sends this line."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        self.clients.append(client.getsockname())
        self.open.append(client)
        client.sendall(f"{line}\n".encode())
        return client

    def ask(self, line: str) -> str:
        """What the service answers to it."""
        client = self.send(line)
        answer = client.recv(1000).decode().strip()
        client.close()
        return answer

    def command(self, *words: str) -> str:
        """What a command of ours says of the process."""
        name, *options = words
        done = subprocess.run(
            [sys.executable, "-m", "proactorx", name, str(self.process.pid), *options],
            env=self.env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def stop(self) -> int:
        """End both."""
        for client in self.open:
            client.close()
        self.process.terminate()
        return self.process.wait(PATIENCE)


def reported(service: Troubled, lines: Iterable[str], pattern: str) -> str:
    """Send lines, until the watchdog says this: its report, and the one of the end."""
    start = len(service.log.read_text())
    for line in lines:
        service.ask(line)
        time.sleep(0.1)
        reports = re.split(rf"(?={REPORT})", service.log.read_text()[start:])
        for place, each in enumerate(reports):
            if re.search(pattern, each):
                return "".join(reports[place : place + (2 if "not turned" in each else 1)])
    raise AssertionError(f"no {pattern!r} in:\n{service.log.read_text()}")


def lookup(service: Troubled) -> str:
    """The name server is asked by the loop's thread."""
    return reported(service, ["lookup db.example"] * 5, "not turned.*blocking call.*'lookup'")


def check(service: Troubled) -> str:
    """A regular expression tries all ways to read a text: the longer it is, the longer that takes."""
    return reported(service, (f"check {'a' * size}" for size in range(20, 40)), "not turned.*'check'")


def report(service: Troubled) -> str:
    """A thread computes, in C; where other programs have the processors, that may be said at first."""
    return reported(service, ["report"] * 20, "held by thread report")


def subscribe(service: Troubled, least: int = 10_000_000) -> Answer:
    """A client does not read: until so many bytes wait for it."""
    client = service.send("subscribe")
    while True:
        answer: Answer = json.loads(service.command("top", "--json"))
        buffers = answer["loops"][0]["buffers"]
        if buffers and buffers[0]["size"] >= least:
            client.close()
            return answer


def transfer(service: Troubled) -> str:
    """The account stays locked."""
    service.ask("transfer 500")
    service.send("transfer 10")
    service.send("transfer 20")
    while (text := service.command("ps")).count("Service.transfer") < 2:
        pass
    return text


def tidy(text: str) -> str:
    """Without the places of this computer."""
    library = sysconfig.get_path("stdlib")
    return text.replace(f"{ROOT}/", "").replace(f"{library}/", "/usr/lib/python3.13/")


def record() -> None:
    """Make each mistake once, and keep what is seen of it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        service = Troubled(Path(folder))
        try:
            steps: Answer = {name: globals()[name](service) for name in STEPS}
        finally:
            service.stop()
    DATA.write_text(tidy(json.dumps(steps, indent=1)) + "\n", encoding="utf-8")


def draw(name: str, seen: Any) -> str:
    """The screen of one step."""
    from rich.console import Console
    from rich.text import Text

    from proactorx.cli.top import Screen

    with open(os.devnull, "w") as nowhere:
        console = Console(
            record=True, width=110, file=nowhere, color_system="truecolor", legacy_windows=False
        )
        if isinstance(seen, str):
            console.print(Text(seen.rstrip()))
        else:
            console.print(Screen().draw(seen))
    title = {"subscribe": "python -m proactorx top", "transfer": "python -m proactorx ps"}.get(name, SERVICE)
    picture = console.export_svg(title=title, unique_id=name)
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL).replace("Fira Code", "monospace")


def words_of(picture: str) -> list[str]:
    """What a picture says; how it is drawn differs between versions of rich."""
    return " ".join(html.unescape(each) for each in re.findall(r"<text[^>]*>([^<]*)<", picture)).split()


def main() -> int:
    """Do as the options say."""
    if "--record" in sys.argv:
        record()
    pictures = {name: draw(name, seen) for name, seen in json.loads(DATA.read_text(encoding="utf-8")).items()}
    wrong = 0
    for name, picture in pictures.items():
        path = IMAGES / f"trouble-{name}.svg"
        if "--check" not in sys.argv:
            path.write_text(picture, encoding="utf-8")
        elif not path.exists() or words_of(path.read_text(encoding="utf-8")) != words_of(picture):
            print(f"{path} is not what {DATA} says: run docs/screens.py", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
