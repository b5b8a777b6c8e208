"""Parts of a benchmark that go well, and that do not; without torch, so that their processes start quickly."""

import os
import time


def good(setting):
    return {"left": setting.left > 0, "nothing": float("nan"), "before": setting.result("good")}


def raises(setting):
    raise ValueError("no such thing\nand a second line")


def dies(setting):
    os._exit(3)


def hangs(setting):
    time.sleep(600)
