"""Ask for known faults of the packages that are installed in ``.venv``: ``make audit``.

pip-audit, in an environment of its own, asks the package index for them. Its database is the index's, of the
day of the call; where the index has none, as mirrors, that is said. Exit code: 0 none known, 1 some,
2 nothing could be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys

import bootstrap

PIP_AUDIT = "pip-audit==2.10.1"


def main() -> int:
    """Audit; print one line for each fault, and one in the end."""
    place = bootstrap.ROOT / ".venv-audit"
    program = place / "bin" / "pip-audit"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run(
            [place / "bin" / "pip", "install", "--quiet", PIP_AUDIT], check=True, stderr=subprocess.DEVNULL
        )
    (site,) = bootstrap.VENV.glob("lib/python3.*/site-packages")
    words = ("--path", site, "--format", "json", "--progress-spinner", "off")
    asked = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    try:
        entries = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"audit: pip-audit says nothing: {asked.stderr.strip()[-500:]}", file=sys.stderr)
        return 2
    text, code = verdict(entries)
    print(text)
    return code


def verdict(entries: list[dict[str, object]]) -> tuple[str, int]:
    """Return what pip-audit's entries come to, and the exit code."""
    audited = [entry for entry in entries if "vulns" in entry]
    lines = [
        f"{entry['name']} {entry['version']}: {fault['id']}, "
        f"mended in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for entry in audited
        for fault in entry["vulns"]  # type: ignore[attr-defined]
    ]
    if not audited:
        nothing = f"none of {len(entries)} packages could be asked for"
        return f"audit: this index has no database of faults; {nothing}", 2
    left = len(entries) - len(audited)
    count = len(lines)
    lines.append(
        f"audit: {count} known faults in {len(audited)} packages; {left} are not known to the database"
    )
    return "\n".join(lines), int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
