"""Promise: a frame says what the message said, cell by cell, and what is not there is an error that says when it comes."""

import importlib.util
import unittest

from espalier import frames, v1
from espalier.errors import EspalierError, NotThereError


def evaluation(split, step, **accuracies):
    tasks = {task: {"loss": 0.5, "metrics": {"accuracy": value, "macro_f1": value / 2}, "baseline": {"accuracy": 0.25}} for task, value in accuracies.items()}
    return {"split": split, "step": step, "tasks": tasks}


@unittest.skipUnless(importlib.util.find_spec("pandas"), "needs pandas")
class Frames(unittest.TestCase):
    def test_affinity(self):
        pair = {"a": "x", "b": "y", "cosine": -0.5, "deviation": 0.25, "conflicts": 0.75, "steps": 8}
        tasks = [{"task": task, "steps": steps} for task, steps in [("x", 10), ("y", 9), ("z", 1)]]
        job = v1.Job(name="a", progress={"step": 10, "affinity": {"tasks": tasks, "pairs": [pair]}})
        cosine = frames.affinity(job)
        self.assertEqual((cosine.loc["x", "y"], cosine.loc["y", "x"], cosine.loc["x", "x"]), (-0.5, -0.5, 1.0))
        # No step had both.
        self.assertTrue(cosine.isna().loc["x", "z"])
        self.assertEqual(frames.affinity(job, "conflicts").loc["y", "x"], 0.75)
        self.assertEqual(list(frames.affinity(job, "steps").loc["x"])[:2], [10.0, 8.0])
        with self.assertRaisesRegex(EspalierError, "conflicts"):
            frames.affinity(job, "cosines")
        with self.assertRaisesRegex(NotThereError, "one task"):
            frames.affinity(v1.Job(name="a", spec={"tasks": [{"name": "x"}]}))
        with self.assertRaisesRegex(NotThereError, "affinity: on"):
            frames.affinity(v1.Job(name="a"))

    def test_scores(self):
        job = v1.Job(name="a", evaluations=[evaluation("validation", 5, x=0.5), evaluation("test", 9, x=0.75, y=0.5), evaluation("validation", 10, x=1.0)])
        test = frames.scores(job)
        self.assertEqual(list(test.index), [(task, metric) for task in "xy" for metric in ["loss", "accuracy", "macro_f1"]])
        self.assertEqual(tuple(test.loc[("x", "accuracy")]), (0.75, 0.25))
        self.assertTrue(test.isna().loc[("y", "loss"), "baseline"])
        self.assertEqual(frames.scores(job, "validation").loc[("x", "accuracy"), "score"], 1.0)
        with self.assertRaisesRegex(NotThereError, "of others: test, validation"):
            frames.scores(job, "train")

    def test_series(self):
        frame = frames.series([v1.Series(name="loss/x", steps=[2, 4], means=[1.0, 0.5]), v1.Series(name="loss/y", steps=[4], means=[2.0])])
        self.assertEqual(list(frame.index), [2, 4])
        self.assertEqual(list(frame["loss/x"]), [1.0, 0.5])
        self.assertTrue(frame.isna().loc[2, "loss/y"])


if __name__ == "__main__":
    unittest.main()
