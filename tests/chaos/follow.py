"""What a run is seen by: the job's watch, and the moments of its steps as rank 0 logged them."""

import datetime
import json
import os
import subprocess
import threading
import time

from stage import BIN

OVER = ("SUCCEEDED", "FAILED", "CANCELLED")


class Steps:
    """(moment, generation, step) of every step that a rank 0 of any generation did: read from the workers' logs, in which
    a moment is exact to microseconds and on the clock of this machine. Partly written lines wait for their rest."""

    def __init__(self, stage):
        self.stage, self.places, self.rests = stage, {}, {}
        self.all, self.top = [], 0

    def pull(self):
        """Takes in what was logged since."""
        fresh = []
        for name in self.stage.names:
            path = self.stage.folder / f"{name}.log"
            if not path.exists():
                continue
            with open(path, "rb") as log:
                log.seek(self.places.get(name, 0))
                lines = (self.rests.get(name, b"") + log.read()).split(b"\n")
                self.places[name] = log.tell()
            self.rests[name] = lines.pop()
            fresh += [one for one in map(step_of, lines) if one]
        self.all += fresh
        self.top = max([self.top, *(step for _, _, step in fresh)])

    def read(self):
        """All of them so far, in order of time."""
        self.pull()
        self.all.sort()
        return self.all

    def reached(self):
        """Most steps done so far."""
        self.pull()
        return self.top


def step_of(line):
    if b'"step done"' not in line:
        return None
    try:
        entry = json.loads(line)
        moment = datetime.datetime.fromisoformat(entry["timestamp"]).timestamp()
        return moment, int(entry["fields"]["generation"]), int(entry["fields"]["step"])
    except (ValueError, KeyError):
        # A line that a kill cut off.
        return None


def next_after(steps, moment):
    """(seconds, step) from `moment` to the first step beyond all that were done by then, made by a later generation than
    they were; none if there is none yet."""
    before = [one for one in steps if one[0] <= moment]
    reached = max((step for _, _, step in before), default=0)
    generation = max((generation for _, generation, _ in before), default=0)
    after = [one for one in steps if one[0] > moment and one[1] > generation]
    # The ranks may have finished a step or two between the signal and their end.
    reached = max([reached] + [step for at, of, step in steps if at > moment and of == generation])
    first = next((one for one in after if one[2] > reached), None)
    return None if first is None else (first[0] - moment, first[2])


def durations(steps):
    """(moment of the end, seconds) of each step whose predecessor the same generation did."""
    pairs = zip(steps, steps[1:])
    return [(late[0], late[0] - early[0]) for early, late in pairs if early[1] == late[1] and late[2] == early[2] + 1]


class Follow:
    """Watches a job to its end in a thread, through `espalier watch -o json`, again and again if need be."""

    def __init__(self, stage, name):
        self.stage, self.name = stage, name
        self.state, self.step, self.message, self.events = "", 0, "", []
        self.stopped = threading.Event()
        self.child = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stopped.is_set() and self.state not in OVER:
            env = {**os.environ, "ESPALIER_SERVER": self.stage.servers}
            command = [BIN / "espalier", "watch", self.name, "-o", "json"]
            self.child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            with self.child:
                for line in self.child.stdout:
                    self.take(line)
            self.stopped.wait(0.2)

    def take(self, line):
        try:
            update = json.loads(line)
        except ValueError:
            return
        if "progress" in update:
            self.step = int(update["progress"]["step"])
        elif "event" in update:
            event = update["event"]
            if not self.events or event["sequence"] > self.events[-1][1]:
                self.events.append((time.time(), event["sequence"], event["state"], event["message"]))
                self.state, self.message = event["state"], event["message"]

    @property
    def over(self):
        return self.state in OVER

    def end(self):
        self.stopped.set()
        if self.child and self.child.poll() is None:
            self.child.kill()
        self.thread.join(timeout=10)
