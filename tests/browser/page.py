"""The App as a person uses it: what they click, what they see. Every wait is for a condition.

Where a wait names a time, that is a step between two looks at the condition.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
from PIL import Image
from playwright.sync_api import Error, FloatRect, Locator, Page, expect

PATIENCE = float(os.environ.get("FIFTYONE_CAM_PATIENCE", "180"))
"""Seconds to wait for what must come: machines that run tests are slow and shared."""

expect.set_options(timeout=PATIENCE * 1000)

PASSING = ("on a detached ArrayBuffer", "entry is loading")
"""What FiftyOne's App (1.22.1) throws by itself, depending on what comes first. No test asks for their absence:

- "Cannot perform Construct on a detached ArrayBuffer": colours changed while a tile was being painted. The tile stays
  painted, and what painted it is lost. That tiles can be painted later is a law of its own, in ``test_app.py``.
- "entry is loading": a panel was opened while the dataset was being loaded anew. It opens, and all tiles are drawn.
"""


class AppPage:
    """One browser page on one running App."""

    def __init__(self, page: Page, session: fo.Session | None, url: str) -> None:
        """``session``: None where the App is another process's."""
        self.page, self.session, self.url = page, session, url
        self.thrown: list[str] = []  # all that went uncaught in the page
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.thrown.append(str(error)))
        for words in ("Dismiss", "Disable"):  # what the App puts in front of a newcomer, some time after it opens
            # without the mouse and without waiting: where both are there, one is below the other's backdrop
            page.add_locator_handler(
                page.get_by_text(words, exact=True).first,
                lambda button: button.evaluate_all("all => all.forEach(one => one.click())"),
                no_wait_after=True,
            )

    @property
    def errors(self) -> list[str]:
        """What went uncaught in the page, except for what the App throws by itself."""
        return [error for error in self.thrown if not any(words in error for words in PASSING)]

    # where one is

    def open(self, dataset: fo.Dataset) -> None:
        """Open a dataset as ``fo.launch_app(dataset)`` does, and wait for its pictures."""
        self.page.goto("about:blank")
        self.until(lambda: _sent(self.session, dataset), "the session is connected")
        self.page.goto(self.url)
        self.ready()

    def reload(self) -> None:
        """As the browser's own button does."""
        self.page.reload()
        self.ready()

    def ready(self) -> None:
        """Wait for the grid to be drawn."""
        expect(self.lookers.first).to_be_visible()
        self.settled()

    def settled(self) -> None:
        """Wait until every picture in sight is drawn."""
        self.page.wait_for_function(
            """() => { const seen = e => { const box = e.getBoundingClientRect();
                                           return box.bottom > 0 && box.top < innerHeight; };
                       const all = [...document.querySelectorAll('[data-cy=looker]')].filter(seen);
                       return all.length && all.every(e => e.querySelector('canvas[canvas-loaded]')); }"""
        )

    @property
    def lookers(self) -> Locator:
        return self.page.locator('[data-cy="fo-grid"] [data-cy="looker"]')

    def field(self, path: str) -> Locator:
        """A field's line in the sidebar."""
        return self.page.locator(f'[data-cy="sidebar-field-container-{path}"]').first

    def show(self, path: str, shown: bool = True) -> None:
        """Show or hide a field. The App remembers it, also when the dataset is opened again."""
        box = self.page.locator(f'[data-cy="checkbox-{path}"]').first

        looks = 0

        def there() -> bool | None:
            nonlocal looks
            self.page.wait_for_timeout(500)  # what the App remembers comes after the grid does: so look twice
            if box.locator("input").is_checked() == shown:
                looks += 1
                return looks == 2 or None
            looks = 0
            box.click()
            return None

        self.until(there, f"{path} {'shown' if shown else 'hidden'}")

    def count(self) -> str:
        """What the App says of how many samples are in sight: ``"3 of 72 samples"``."""
        return " ".join(self.page.locator('[data-cy="entry-counts"]').inner_text().split())

    # operators

    @property
    def prompt(self) -> Locator:
        """A form, or what an operator said in the end: the App draws them as different dialogs."""
        return self.page.locator('[role="dialog"]:has(button)')

    @property
    def strip(self) -> Locator:
        """The live progress, below the App."""
        return self.page.locator('[data-cy="cam-progress"]')

    def shown(self, path: str) -> bool:
        """Whether a field is ticked in the sidebar."""
        return self.page.locator(f'[data-cy="checkbox-{path}"] input').first.is_checked()

    def open_panel(self, title: str, name: str) -> Locator:
        """Open a panel beside the grid by its title in the menu of the +."""
        panel = self.page.locator(f'[data-cy="panel-content-{name}"]')
        entry = self.page.get_by_text(title, exact=True).first

        def press() -> None:
            if not entry.is_visible():
                self.page.locator('[data-cy="new-panel-btn"]').first.click()
            entry.click()

        self.again(press, panel)
        return panel

    def open_sample(self, index: int = 0) -> Locator:
        """Open a sample of the grid; where it is drawn."""
        opened = self.page.locator("#modal [data-cy='modal-looker-container']")
        self.again(lambda: self.lookers.nth(index).click(), opened)
        return opened.first

    def close_sample(self) -> None:
        """Close the sample that is open: a click made while it still opens is lost."""
        opened = self.page.locator("#modal [data-cy='modal-looker-container']")
        self.again(lambda: self.page.mouse.click(8, 500), lambda: not opened.count())  # beside it

    def button(self, icon: str) -> Locator:
        """A button of the plugin, by its icon."""
        return self.page.locator(f'img[src*="/{icon}-dark.svg"], img[src*="/{icon}-light.svg"]').first

    def browse(self, label: str) -> None:
        """Open an operator's form by the backquote key and its name."""
        search = self.page.get_by_placeholder("Search operations by name")
        self.again(lambda: self.page.keyboard.press("Backquote"), search)  # before the App listens, it is lost
        search.fill(label)
        self.page.get_by_text(label, exact=True).last.click()
        expect(self.prompt).to_be_visible()

    def execute(self, operator: str, **params: Any) -> None:
        """Let the App execute an operator, by its full name."""
        self.page.evaluate("([name, params]) => window.__foo__.executeOperator(name, params)", [operator, params])

    def words(self) -> str:
        """What the prompt and the strip of progress say now; nothing if there are none."""
        return " ".join([*self.prompt.all_inner_texts(), *self.strip.all_inner_texts()])

    def line(self, label: str) -> Locator:
        """The smallest part of the form that holds both a label and an input."""
        return self.prompt.get_by_text(label, exact=True).first.locator(
            "xpath=ancestor::div[.//input or .//textarea][1]"
        )

    def type(self, label: str, text: str) -> None:
        """Type into a field, and leave it."""
        field = self.line(label).locator("input, textarea").first
        field.fill(text)
        field.press("Tab")

    def choose(self, label: str, value: str) -> None:
        """Pick from a dropdown."""
        box = self.line(label).get_by_role("combobox")
        options = self.page.get_by_role("option").filter(has_text=re.compile(rf"^{re.escape(value)}"))

        def chosen() -> bool | None:
            """Any click is lost where the form is drawn anew at that moment."""
            if options.count():
                options.first.click(timeout=2000)
            elif str(box.evaluate("e => e.value || e.innerText")).startswith(value):
                return True
            else:
                box.click(timeout=2000)
            self.page.wait_for_timeout(300)
            return None

        self.until(chosen, f"{value} of {label} is chosen")

    def switch(self, label: str) -> None:
        """Flip a switch or tick a box. A click is lost where the form is drawn anew at that moment."""
        found = self.prompt.locator("label").filter(has_text=label).first
        wanted = not found.locator("input").is_checked()

        def flipped() -> bool | None:
            if found.locator("input").is_checked() == wanted:
                return True
            found.click(timeout=2000)
            self.page.wait_for_timeout(300)
            return None

        self.until(flipped, f"{label} is flipped")

    def submit(self, label: str) -> None:
        """Press the form's main button, once the form is not being resolved any more."""
        button = self.prompt.get_by_role("button", name=label, exact=True)
        expect(button).to_be_enabled()
        button.click()

    def choose_to(self, way: str) -> None:
        """Choose how the form's main button executes: at once, by its own label, or "Schedule"."""
        self.prompt.get_by_role("button").last.click()
        self.page.get_by_role("menuitem").filter(has_text=re.compile(rf"^{way}")).click()

    def done(self) -> None:
        """Close what an operator said in the end. The App may do so by itself, with a dataset that it loads anew."""

        def closed() -> bool | None:
            if not self.prompt.count():
                return True
            self.prompt.get_by_role("button", name=re.compile("^(Done|Close)$")).click(timeout=2000)
            return None

        self.until(closed, "what was said is closed")

    # what is seen

    def rest(self) -> None:
        """Take the pointer off whatever it is on, unless it makes a tooltip that is to be seen."""
        if not self.tooltip():
            self.page.mouse.move(5, 5)

    def tooltip(self) -> dict[str, str]:
        """What the tooltip of a label says now, by the name of the attribute."""
        entries = self.page.locator('[data-cy^="attribute-"]')
        names = [str(entry.get_attribute("data-cy")) for entry in entries.all()]
        return dict(zip([name.removeprefix("attribute-") for name in names], entries.all_inner_texts(), strict=True))

    def pixels(self, what: Locator | None = None) -> np.ndarray:
        """What is on the screen as RGB, ``(height, width, 3)``; the whole page or one element of it."""
        png = (what or self.page).screenshot(animations="disabled")
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def picture(self, index: int = 0) -> np.ndarray:
        """One picture of the grid, with what is drawn on it; the pointer elsewhere.

        Without its lowest quarter: words stand there, whose colours the App chooses in the order in which it paints
        them, other ones after a reload.
        """
        self.page.mouse.move(5, 5)

        def seen() -> np.ndarray:
            self.settled()
            pixels = self.pixels(self.lookers.nth(index))
            return pixels[: len(pixels) * 3 // 4]

        return np.asarray(self.until(seen, "a picture on the grid"))

    def still(self, index: int = 0) -> np.ndarray:
        """A picture on the grid once it no longer changes: labels, heatmaps and photos come one after the other."""
        painting = self.page.locator('[data-cy="panel-tab-samples"] [role="progressbar"]')
        deadline = time.monotonic() + 30  # the App may forget to take its sign away
        while painting.count() and time.monotonic() < deadline:
            self.page.wait_for_timeout(200)
        last = self.picture(index)

        def unchanged() -> np.ndarray | None:
            nonlocal last
            self.page.wait_for_timeout(600)
            before, last = last, self.picture(index)
            return last if difference(before, last) < 0.2 else None

        return np.asarray(self.until(lambda: (found := unchanged()) is not None or None, "a picture at rest") and last)

    def box(self, what: Locator) -> FloatRect:
        """Where something is on the screen, scrolled into sight, once it stays there: a panel draws itself anew
        after what changes the view, and an element found before that is gone, or elsewhere, after it."""
        last: FloatRect | None = None

        def rests() -> FloatRect | None:
            nonlocal last
            before, last = last, None
            what.scroll_into_view_if_needed()
            last = what.bounding_box()
            self.page.wait_for_timeout(400)
            return last if last is not None and last == before else None

        box: FloatRect = self.until(rests, "an element at rest")
        return box

    def again(self, do: Callable[[], None], seen: Locator | Callable[[], Any]) -> None:
        """Do something until something is seen, or so: what is done while a panel is drawn anew is lost."""

        def there() -> bool:
            return bool(seen.count() and seen.first.is_visible()) if isinstance(seen, Locator) else bool(seen())

        def done() -> bool | None:
            if not there():
                self.page.set_default_timeout(15_000)  # what is to be clicked may be covered by what follows from it
                try:
                    do()
                finally:
                    self.page.set_default_timeout(PATIENCE * 1000)
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                if there():
                    return True
                self.page.wait_for_timeout(200)
            return None

        self.until(done, "what follows from it")

    def until(self, seen: Callable[[], Any], what: str) -> Any:
        """Wait until something is so; returns what it is then. Not so, too, while what was found on the page is gone
        again before it could be used: the App draws its grid, its forms and its panels anew as data come."""
        deadline = time.monotonic() + PATIENCE
        while True:
            lost = ""
            try:
                found = seen()
            except Error as error:
                found, lost = None, str(error)
            if found is not False and found is not None:
                return found
            if time.monotonic() > deadline:
                self.shot("failure")
                raise AssertionError(
                    f"waited {PATIENCE:.0f} s in vain: {what}; {self.words()!r}; {lost}; {self.thrown}"
                )
            self.page.wait_for_timeout(200)

    def shot(self, name: str, what: Locator | None = None) -> None:
        """Keep a screenshot for the README, where ``FIFTYONE_CAM_SCREENSHOTS`` names a folder.

        Of the whole page, made smaller, or of one element with a little around it.
        """
        folder = os.environ.get("FIFTYONE_CAM_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.rest()
            picture = Image.fromarray(self.pixels())
            box = what and what.bounding_box()
            if box:
                x, y, width, height = (box[side] for side in ("x", "y", "width", "height"))
                picture = picture.crop((round(x - 4), round(y - 4), round(x + width + 4), round(y + height + 4)))
            else:
                picture.thumbnail((1110, 645), Image.Resampling.LANCZOS)
            picture.save(Path(folder) / f"{name}.png")


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """How different two pictures are: mean absolute difference, 0 to 255. Of different sizes: wholly."""
    return 255.0 if a.shape != b.shape else float(np.abs(a.astype(float) - b.astype(float)).mean())


def _sent(session: fo.Session, dataset: fo.Dataset) -> bool | None:
    try:
        session.dataset = dataset
    except RuntimeError:  # not connected yet
        return None
    return True
