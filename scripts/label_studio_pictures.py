"""Labels a batch in Label Studio by the keyboard of a headless Chromium, and takes a picture of the first page for the documentation.

    pip install playwright; apt-get install chromium
    LABEL_STUDIO_PASSWORD=... python scripts/label_studio_pictures.py http://localhost:8080 me@example.org 3 5 5 q n:Dent skip

The arguments after the project's number are the keys of the images in turn: of a class, `q` unsure, `x` bad image, `=` what the model
has chosen, `n:NAME` a new class, `skip`. It ends when each has been submitted.
"""

import argparse
import os
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

SIZE = {"width": 1120, "height": 720}
LONGEST_MS = 60_000
FIELD = "input[placeholder^='name of the class']"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("email")
    parser.add_argument("project", type=int)
    parser.add_argument("keys", nargs="+")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="the folder of the picture")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(LONGEST_MS)
        log_in(page, options.url, options.email, os.environ["LABEL_STUDIO_PASSWORD"])
        page.goto(f"{options.url}/projects/{options.project}/data?labeling=1")
        for number, key in enumerate(options.keys):
            page.get_by_role("button", name="Submit").or_(page.get_by_role("button", name="Skip")).first.wait_for()
            page.wait_for_timeout(3000)  # until the image is drawn
            if number == 0:
                page.screenshot(
                    path=options.to / "label_studio.png", clip={"x": 0, "y": 0, "width": 800, "height": 720}
                )
            label(page, key)
        browser.close()


def log_in(page: Page, url: str, email: str, password: str) -> None:
    page.goto(f"{url}/user/login/")
    page.fill("#email", email)
    page.fill("#password", password)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda there: "/user/login" not in there)


def label(page: Page, key: str) -> None:
    """Press what labels the image that is shown, and wait until the server has it."""
    with page.expect_response(lambda r: "/annotations" in r.url and r.request.method == "POST"):
        if key == "skip":
            page.keyboard.press("Control+Space")
            return
        if key != "=":
            page.keyboard.press(key[0])
        if ":" in key:
            page.wait_for_timeout(500)
            while not page.evaluate(f"document.activeElement.matches({FIELD!r})"):
                page.keyboard.press("Shift+Tab")
            page.keyboard.type(key.split(":", 1)[1])
            page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        page.keyboard.press("Control+Enter")


if __name__ == "__main__":
    main()
