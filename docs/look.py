#!/usr/bin/env python3
"""Open every page of the site in a real browser, wide and as on a phone, and say what is cut.

Cut is what reaches beyond the window without a part that scrolls around it, and text that a box hides.
Other pages, such as a report, may be named. Needs playwright and a Chromium (`pip install playwright`; the
system's Chromium or `playwright install chromium`), and says so where they are not.

Examples:
    make docs look
    python docs/look.py demo/report.html --shots /tmp/shots
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

SITE = Path(__file__).resolve().parents[1] / "site"
WINDOWS = ((1440, 900), (390, 844))
# In the page: what reaches beyond the window and cannot be scrolled to, or is hidden by its own box.
CUT = """() => {
  const overflow = e => getComputedStyle(e).overflowX;
  const width = document.documentElement.clientWidth, cut = [];
  const scrolls = e => {
    for (; e && e !== document.body; e = e.parentElement)
      if (['auto', 'scroll'].includes(overflow(e))) return true;
    return false;
  };
  // Of its own, not of what is in it.
  const says = e => [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.textContent.trim());
  if (document.documentElement.scrollWidth > width + 1) cut.push('the page is wider than the window');
  for (const e of document.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect();
    const seen = e.checkVisibility({visibilityProperty: true, opacityProperty: true});
    // What lies wholly outside waits there to be opened.
    if (!seen || !box.width || !box.height || box.left < 0 || box.left >= width) continue;
    const text = e.tagName.toLowerCase() + ' "' + e.textContent.trim().slice(0, 40) + '"';
    if (box.right > width + 1 && !scrolls(e)) cut.push('beyond the window: ' + text);
    if (overflow(e) === 'hidden' && says(e) && e.scrollWidth > e.clientWidth + 1) cut.push('hidden: ' + text);
  }
  return cut;
}"""


def main() -> int:
    """Look at each page in each window; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", type=Path, nargs="*", help="HTML files (all of the site)")
    parser.add_argument("--shots", type=Path, help="folder for a picture of each")
    arguments = parser.parse_args()
    browser_path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        print("skipped: playwright is not installed (pip install playwright)")
        return 0
    pages = arguments.pages or sorted(SITE.rglob("*.html"))
    if not pages:
        print(f"look: no pages in {SITE}; `make docs` builds them", file=sys.stderr)
        return 1
    found = 0
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        except Error as error:
            print(f"skipped: no browser ({str(error).splitlines()[0]}); playwright install chromium")
            return 0
        for width, height in WINDOWS:
            page = browser.new_page(viewport={"width": width, "height": height})
            for path in pages:
                page.goto(path.resolve().as_uri(), wait_until="load")
                name = str(path.relative_to(SITE) if path.is_relative_to(SITE) else path)
                for cut in page.evaluate(CUT):
                    found += 1
                    print(f"{name}, {width} px: {cut}")
                if arguments.shots:
                    arguments.shots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=arguments.shots / f"{width}-{name.replace('/', '_')}.png")
        browser.close()
    widths = " and ".join(str(width) for width, _ in WINDOWS)
    print(
        f"look: {len(pages)} pages at {widths} px: {f'{found} things are cut' if found else 'nothing is cut'}"
    )
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
