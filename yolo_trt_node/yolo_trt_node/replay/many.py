"""Many bags, several at once: each in a process of its own, so that one that dies takes no other with it.

Everything lies in one output folder: ``NAME/`` the bag of detections, ``NAME.json`` what became of it,
``NAME.log`` what it said; ``options.yaml`` the options; ``summary.csv`` and ``summary.html`` at the end.
A second call skips what is finished, goes on with what was stopped, and tries failed ones again.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import html
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

_TRIES = 2
_STOPPED = (130, -signal.SIGINT)


@dataclass(frozen=True)
class Outcome:
    """What became of one bag.

    Attributes:
        bag: its path, as the caller wrote it.
        output: the bag of detections.
        status: ``done`` or ``failed``.
        images: how many there were.
        boxes: how many objects were found.
        unreadable: how many images could not be read.
        seconds: how long it took.
        reason: of a failure, in a sentence.
        key: of the bag and the options: whether a later call may keep it.
    """

    bag: str
    output: str
    status: str
    images: int = 0
    boxes: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    reason: str = ""
    key: str = ""


@dataclass(frozen=True)
class BagJob:
    """One bag to look at.

    Attributes:
        bag: a rosbag2 bag.
        output: where its bag of detections goes.
        command: what does it, as a list of words.
        key: see `Outcome`.
    """

    bag: Path
    output: Path
    command: tuple[str, ...]
    key: str

    def beside(self, suffix: str) -> Path:
        """Return the path of a file beside the output."""
        return self.output.with_name(self.output.name + suffix)


def detect_in_bags(
    bags: Sequence[Path],
    folder: Path,
    values: Mapping[str, Any],
    words: Sequence[str],
    *,
    jobs: int,
    ray: str = "",
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Detect in every image of many bags.

    Args:
        bags: their paths.
        folder: of all that is written; made if it is not there.
        values: options of ``bag_detect``, by parameter name.
        words: its further arguments.
        jobs: how many bags at once.
        ray: address of a Ray cluster whose workers see the same files, ``auto`` for the one this machine
            belongs to; empty: processes of this machine.
        say: is given a line whenever a bag has ended.

    Raises:
        ValueError: two bags have one name, or Ray is not there.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = folder / "options.yaml"
    text = yaml.safe_dump({"/**": {"ros__parameters": dict(values)}})
    options.write_text(text)
    base = (sys.executable, "-m", "yolo_trt_node.replay.bag_detect")
    tail = ("--params-file", str(options.resolve()), *words)
    planned = [
        BagJob(
            bag=bag,
            output=(folder / name).resolve(),
            command=(*base, str(bag.resolve()), "-o", str((folder / name).resolve()), *tail),
            key=_key(bag, text, words),
        )
        for name, bag in _names(bags).items()
    ]
    outcomes: dict[Path, Outcome] = {}
    left: list[BagJob] = []
    for job in planned:
        kept = _kept(job)
        if kept:
            outcomes[job.bag] = kept
        else:
            left.append(job)
    if outcomes:
        say(f"{len(outcomes)} of {len(planned)} bags are finished already")
    started = time.monotonic()
    try:
        for job, outcome in _by_ray(left, ray) if ray else _by_processes(left, jobs):
            outcomes[job.bag] = outcome
            job.beside(".json").write_text(json.dumps(asdict(outcome), indent=1))
            what = outcome.reason or f"{outcome.boxes} detections in {outcome.images} images"
            say(
                f"[{len(outcomes)}/{len(planned)}, {time.monotonic() - started:.0f} s] {job.output.name}: "
                f"{outcome.status}, {what}"
            )
    finally:
        ordered = [outcomes[job.bag] for job in planned if job.bag in outcomes]
        write_bags_summary(folder, ordered)
    return ordered


def _names(bags: Sequence[Path]) -> dict[str, Path]:
    """Give each bag the name of its output: its own, or with its folder's where two are alike."""
    counts = Counter(bag.resolve().stem for bag in bags)
    names: dict[str, Path] = {}
    for bag in bags:
        path = bag.resolve()
        name = path.stem if counts[path.stem] == 1 else f"{path.parent.name}_{path.stem}"
        if name in names:
            raise ValueError(
                f"{names[name]} and {bag} would both be written to {name}: name each bag once, or give them "
                "different output folders"
            )
        names[name] = bag
    return names


def _key(bag: Path, options: str, words: Sequence[str]) -> str:
    """Tell one bag with some options from another: by the files' names, sizes and times, and the options."""
    digest = hashlib.sha256(repr((options, list(words))).encode())
    for file in sorted(bag.rglob("*")) if bag.is_dir() else [bag]:
        if file.is_file():
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _kept(job: BagJob) -> Outcome | None:
    """Return what an earlier call made of the same bag with the same options, if that was finished."""
    try:
        found = Outcome(**json.loads(job.beside(".json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.status == "done" and found.key == job.key and job.output.exists() else None


def _by_processes(left: Sequence[BagJob], jobs: int) -> Iterator[tuple[BagJob, Outcome]]:
    """Work in processes of this machine, some at once, in the order given."""
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures: dict[Future[Outcome], BagJob] = {pool.submit(_work, job, running): job for job in left}
        try:
            while futures:
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    yield futures.pop(future), future.result()
        except BaseException:
            # Ctrl-C: what has not begun does not begin, what runs keeps what it has.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.send_signal(signal.SIGINT)
            raise


def _by_ray(left: Sequence[BagJob], address: str) -> Iterator[tuple[BagJob, Outcome]]:
    """Work on a Ray cluster: one task a bag, on one CPU each; a worker that dies is replaced."""
    try:
        import ray
    except ImportError:
        raise ValueError(
            "--ray needs the Python package ray (pip install ray), here and on the workers"
        ) from None
    ray.init(address=address, log_to_driver=False)
    task = ray.remote(num_cpus=1, max_retries=_TRIES)(_work)
    waiting = {task.remote(job): job for job in left}
    while waiting:
        (done, *_), _rest = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(done), ray.get(done)


def _work(job: BagJob, running: set[subprocess.Popen[bytes]] | None = None) -> Outcome:
    """Look at one bag; a failure is tried once more, since what was done is kept."""
    started = time.monotonic()
    report = job.beside(".report.json")
    told: dict[str, int] = {}
    reason = ""
    with job.output.with_name(f".{job.output.name}.lock").open("w") as lock:
        # The process inherits the lock: where its caller died (a worker of a cluster), the next one waits
        # here until it has ended, and finds its report.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(_TRIES):
            if job.output.exists():
                told = _read_report(report)
            if told:
                reason = ""
                break
            if job.output.exists() and job.beside(".json").exists():
                # What an earlier call made of other options, or of a bag that was damaged.
                shutil.rmtree(job.output)
            report.unlink(missing_ok=True)
            status = _run(job, report, lock.fileno(), running)
            told = _read_report(report)
            if status == 0:
                reason = ""
                break
            reason = _reason(job, status)
            # Told and yet not well: read up to some damage, and the same would happen again.
            if told or status in _STOPPED:
                break
    done = bool(told) and not reason
    seconds = time.monotonic() - started
    report.unlink(missing_ok=True)
    return Outcome(
        str(job.bag), str(job.output), "done" if done else "failed", **told,
        reason=reason or ("" if done else "ended without a report"), seconds=seconds, key=job.key,
    )  # fmt: skip


def _run(job: BagJob, report: Path, lock: int, running: set[subprocess.Popen[bytes]] | None) -> int:
    """Run one process to its end; return its exit status."""
    with job.beside(".log").open("ab") as log:
        process = subprocess.Popen(
            [*job.command, "--report", str(report)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            # Ctrl-C in the terminal reaches the caller, who tells each process once.
            start_new_session=True,
        )
    if running is None:
        return process.wait()
    running.add(process)
    try:
        return process.wait()
    finally:
        running.discard(process)


def _read_report(report: Path) -> dict[str, int]:
    """Return the counts that a process left; nothing where it left none."""
    try:
        told = json.loads(report.read_text())
        return {name: int(told[name]) for name in ("images", "boxes", "unreadable")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _reason(job: BagJob, status: int) -> str:
    """Say why a process failed."""
    if status in _STOPPED:
        return "stopped"
    if status < 0:
        return f"ended with {signal.Signals(-status).name}; {job.beside('.log')} has what it said"
    return _last_line(job.beside(".log")) or f"ended with status {status}"


def _last_line(log: Path) -> str:
    """Return the last line of a log, where an error stands."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("bag_detect: ") if lines else ""


_COLUMNS = tuple(entry.name for entry in fields(Outcome) if entry.name != "key")


def write_bags_summary(folder: Path, outcomes: Iterable[Outcome]) -> None:
    """Write ``summary.csv`` and ``summary.html``: a row a bag, failed ones first in the page."""
    rows = [asdict(outcome) for outcome in outcomes]
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    shown = sorted(rows, key=lambda row: row["status"] == "done")
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    body = "\n".join(
        f'<tr class="{row["status"]}">'
        + "".join(f"<td>{html.escape(_shown(row[column]))}</td>" for column in _COLUMNS)
        + "</tr>"
        for row in shown
    )
    done = [row for row in rows if row["status"] == "done"]
    images = sum(row["images"] for row in done)
    boxes = sum(row["boxes"] for row in done)
    (folder / "summary.html").write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{len(rows)} bags</title>
<style>
body {{ font: 15px system-ui, sans-serif; margin: 1.5rem }}
div {{ overflow-x: auto }}
table {{ border-collapse: collapse }}
td, th {{ padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #ddd }}
.failed {{ background: #fde8e6 }}
</style>
<h1>{len(done)} of {len(rows)} bags</h1>
<p>{boxes} detections in {images} images.</p>
<div><table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div></html>
"""
    )


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
