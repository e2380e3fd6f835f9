"""The queues, with their versions and settings, each in an environment of its own."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".peers"
NODE = ("node", "npm")
NONE = "\N{EN DASH}"
"""What a queue cannot do."""


class AbsentError(Exception):
    """A queue cannot be run on this machine; the message says why."""


@dataclass(frozen=True)
class Subject:
    """One queue, and how it is run."""

    name: str
    script: str
    requirements: Sequence[str] = ()
    backend: str = "asyncio"
    way: str = ""
    """The way to take work, of those that leaseq has."""
    keeps_results: bool = False
    """Whether it can keep what a handler returns."""
    share: float = 1.0
    """The share of the items that a slow queue gets."""
    settings: str = ""
    """What is set besides the concurrency."""
    one_line: str = ""
    """Why it cannot give tenants their turns."""
    takes_over: str = ""
    """How another worker comes to have the items of one that died."""

    @property
    def is_peer(self) -> bool:
        """Whether it is another queue than leaseq."""
        return bool(self.requirements)

    def command(self, environments: Path) -> list[str]:
        """The beginning of a command that runs its script.

        Raises:
            AbsentError: it cannot be run here.
        """
        if not self.requirements:
            return [sys.executable, str(HERE / f"{self.script}.py")]
        folder = environments / self.script
        if self.script == "with_bullmq":
            return node_environment(folder)
        return [str(environment(folder, self.requirements)), str(HERE / f"{self.script}.py")]


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """The interpreter of a virtual environment with these packages, made if it is not there."""
    python = folder / "bin" / "python"
    stamp = folder / "requirements"
    wanted = "\n".join(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder} for {', '.join(requirements)}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text(wanted)
    return python


def node_environment(folder: Path) -> list[str]:
    """The command for the script in JavaScript, in a folder with the packages that it needs."""
    missing = [name for name in NODE if shutil.which(name) is None]
    if missing:
        raise AbsentError(f"{' and '.join(missing)} not on the PATH")
    folder.mkdir(parents=True, exist_ok=True)
    source, package = HERE / "bullmq", folder / "package.json"
    wanted = (source / "package.json").read_text()
    if not package.exists() or package.read_text() != wanted:
        print(f"installing BullMQ into {folder}", file=sys.stderr)
        shutil.copy(source / "package.json", package)
        try:
            quiet = ("--silent", "--no-audit", "--no-fund")
            subprocess.run(["npm", "install", *quiet], cwd=folder, check=True)
        except subprocess.CalledProcessError as error:
            package.unlink()
            raise AbsentError(f"npm install failed with {error.returncode}") from None
    script = shutil.copy(source / "with_bullmq.js", folder)
    return ["node", str(script)]


STREAQ = ("streaq==7.2.0", "trio>=0.32")
ONE_LINE = "one line for all: a tenant known beforehand can have a queue and a worker of its own"
LEASE = "its lease ends: default_lease_timeout"

SUBJECTS = (
    Subject("leaseq serve", "with_leaseq", way="serve", takes_over=LEASE),
    Subject("leaseq serve, trio", "with_leaseq", backend="trio", way="serve", takes_over=LEASE),
    Subject(
        "leaseq serve_batches",
        "with_leaseq",
        way="serve_batches",
        settings="100 at a time",
        takes_over=LEASE,
    ),
    Subject(
        "leaseq lease_batch",
        "with_leaseq",
        way="lease_batch",
        settings="100 at a time, one consumer",
        takes_over=LEASE,
    ),
    Subject(
        "leaseq tasks",
        "with_leaseq",
        way="tasks",
        keeps_results=True,
        takes_over="its lease ends: lease_timeout, extended while the worker lives",
    ),
    Subject("leaseq tasks, trio", "with_leaseq", backend="trio", way="tasks", keeps_results=True),
    Subject(
        "BullMQ",
        "with_bullmq",
        ("bullmq==6.7.0", "ioredis==6.0.0"),
        keeps_results=True,
        settings="removeOnComplete, or kept for the age of results; a connection for each role",
        one_line=f"{ONE_LINE}; groups are in BullMQ Pro",
        takes_over="its lock ends, and a look for stalled jobs: lockDuration and stalledInterval "
        "(30 s each, unless set)",
    ),
    Subject(
        "streaQ",
        "with_streaq",
        STREAQ,
        keeps_results=True,
        settings="ttl=0 without results",
        one_line=ONE_LINE,
        takes_over="the message idles in its stream: idle_timeout (60 s)",
    ),
    Subject(
        "streaQ, trio",
        "with_streaq",
        STREAQ,
        "trio",
        keeps_results=True,
        settings="ttl=0 without results",
    ),
    Subject(
        "SAQ",
        "with_saq",
        ("saq[redis,hiredis]==0.26.4", "typing-extensions"),
        keeps_results=True,
        settings="ttl=-1 without results; retries=3",
        one_line=ONE_LINE,
        takes_over="a sweep finds jobs beyond their timeout (10 s; a sweep each 60 s)",
    ),
    Subject(
        "arq",
        "with_arq",
        ("arq==0.28.0",),
        keeps_results=True,
        share=0.5,
        settings="keep_result=0 without results",
        one_line=ONE_LINE,
        takes_over="its key expires 10 s after job_timeout (300 s)",
    ),
    Subject(
        "taskiq-redis",
        "with_taskiq",
        ("taskiq==0.13.0", "taskiq-redis==1.2.4"),
        keeps_results=True,
        settings="RedisStreamBroker, which acknowledges",
        one_line=ONE_LINE,
        takes_over="the message idles in its stream: idle_timeout (600 s)",
    ),
    Subject(
        "docket",
        "with_docket",
        ("pydocket==0.27.0",),
        keeps_results=True,
        share=0.2,
        settings="minimum_check_interval=10 ms, where 250 is the default; execution_ttl=0 without "
        "results",
        one_line=ONE_LINE,
        takes_over="the message idles in its stream: redelivery_timeout (300 s)",
    ),
    Subject(
        "huey",
        "with_huey",
        ("huey==3.5.4", "redis>=5", "hiredis"),
        keeps_results=True,
        settings="RedisHuey, a consumer with threads; nothing is acknowledged",
        one_line=ONE_LINE,
        takes_over="never: a task is taken out of the queue before it is done",
    ),
    Subject(
        "dramatiq",
        "with_dramatiq",
        ("dramatiq[redis]==2.2.1", "hiredis"),
        keeps_results=True,
        settings="one process with threads",
        one_line=ONE_LINE,
        takes_over="a worker's heartbeat is missed, and a draw of one in 1,000 commands: "
        "heartbeat_timeout (60 s)",
    ),
    Subject(
        "RQ",
        "with_rq",
        ("rq==3.0.0", "hiredis"),
        keeps_results=True,
        share=0.1,
        settings="a pool of SimpleWorkers, one for each processor; of forking Workers where they "
        "are to die; Retry(max=3)",
        one_line=ONE_LINE,
        takes_over="a job beyond its job_timeout (180 s) is found by maintenance (each 600 s)",
    ),
)
"""All of them. What is not said is as it comes."""
