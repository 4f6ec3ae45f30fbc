"""A page whose console blocks are commands with what they print, and the shell that runs them."""

import os
import select
import subprocess
import time
import uuid

# Most lines and characters of a line that a page shows of an output.
LINES, WIDTH = 22, 140
HEAD = 12
# Seconds that a command may take.
PATIENCE = 900


class Step:
    """A command: its text as a shell reads it, and what it printed."""

    def __init__(self, first):
        self.lines, self.output = [first], ""

    @property
    def text(self):
        return "\n".join(self.lines)

    def shown(self):
        """The lines of it in a page, with its output cut to what a reader wants."""
        output = self.output.rstrip("\n").splitlines() if self.output.strip() else []
        if len(output) > LINES:
            output = output[:HEAD] + ["…"] + output[HEAD - LINES + 1:]
        output = [line.rstrip() if len(line) <= WIDTH else line[:WIDTH - 1] + "…" for line in output]
        return [f"$ {self.lines[0]}", *(f"> {line}" for line in self.lines[1:]), *output]


class Page:
    """Markdown with blocks marked `console`, where `$ ` begins a command and `> ` goes on with it."""

    def __init__(self, text):
        # Lines of text, and lists of steps.
        self.parts = []
        block = None
        for line in text.splitlines():
            if block is None:
                self.parts.append(line)
                if line == "```console":
                    block = []
                    self.parts.append(block)
            elif line == "```":
                self.parts.append(line)
                block = None
            elif line.startswith("$ "):
                block.append(Step(line[2:]))
            elif line.startswith("> ") and not block[-1].output:
                block[-1].lines.append(line[2:])
            else:
                block[-1].output += line + "\n"
        if block is not None:
            raise ValueError("the last console block has no end")

    def commands(self):
        return [step for part in self.parts if isinstance(part, list) for step in part]

    def render(self):
        lines = []
        for part in self.parts:
            if isinstance(part, list):
                lines += [line for step in part for line in step.shown()]
            else:
                lines.append(part)
        return "\n".join(lines) + "\n"


class Shell:
    """One bash for all commands: functions, variables and what runs in the background stay."""

    def __init__(self, folder, env):
        self.process = subprocess.Popen(["bash", "--noprofile", "--norc"], cwd=folder, env=env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def run(self, text):
        """What a command prints on both outputs, and its exit status."""
        mark = f"end-{uuid.uuid4().hex}"
        # The group keeps the command from reading the shell's own input.
        self.process.stdin.write(f"{{\n{text}\n}} </dev/null\nprintf '%s %s\\n' {mark} $?\n".encode())
        self.process.stdin.flush()
        out, end = b"", time.monotonic() + PATIENCE
        fd = self.process.stdout.fileno()
        while mark.encode() not in out or not out.endswith(b"\n"):
            if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
                self.process.kill()
                raise TimeoutError(f"after {PATIENCE} s there is no end of: {text}\n{out.decode(errors='replace')}")
            more = os.read(fd, 1 << 16)
            if not more:
                raise EOFError(f"the shell ended in: {text}\n{out.decode(errors='replace')}")
            out += more
        before, _, status = out.decode(errors="replace").rpartition(mark)
        return before, int(status)
