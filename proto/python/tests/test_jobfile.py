"""Promise: a job file means to this package what it means to the command."""

import os
import unittest
from unittest import mock

from espalier import jobfile, v1
from espalier.errors import JobFileError

HEAD = "name: a\nbackbone: {path: model}\ntasks: [{name: t, head: single_label, data: {train: t.csv}}]\n"


def spec(text):
    return jobfile.read(HEAD + text, folder="/jobs")


class Shapes(unittest.TestCase):
    def test_short_forms(self):
        # Every rule of the module's table, and every form of a choice.
        self.assertEqual(spec("balancer: upgrad").balancer.method, "upgrad")
        self.assertEqual(spec("balancer: {method: cagrad, params: {c: 0.4}}").balancer.params["c"], 0.4)
        self.assertEqual(spec("tuning: heads").tuning.WhichOneof("mode"), "heads")
        self.assertEqual(spec("tuning: {last_blocks: 2}").tuning.last_blocks, 2)
        self.assertEqual(spec("tuning: !lora {rank: 4}").tuning.lora.rank, 4)
        self.assertEqual(spec("tuning: {prompt: {init: random}}").tuning.WhichOneof("mode"), "prompt")
        self.assertEqual(spec("tuning: {prompt: {init: {text: which}}}").tuning.prompt.text, "which")
        self.assertEqual(spec("sampler: uniform").sampler.WhichOneof("kind"), "uniform")
        self.assertEqual(dict(spec("sampler: {probabilities: {t: 2}}").sampler.probabilities.of), {"t": 2.0})
        adam = spec("training: {optimizer: {betas: [0.8, 0.9]}}").training.optimizer
        self.assertEqual((adam.beta1, adam.beta2), (0.8, 0.9))
        how = spec("training: {optimizer: {method: sgd, momentum: 0.8, nesterov: true}, schedule: {kind: inverse, gamma: 5}}").training
        sgd, schedule = how.optimizer, how.schedule
        self.assertEqual((sgd.method, sgd.momentum, sgd.nesterov), (sgd.SGD, 0.8, True))
        self.assertEqual((schedule.kind, schedule.gamma, schedule.HasField("power")), (schedule.INVERSE, 5.0, False))

    def test_tasks(self):
        text = """\
name: a
backbone: {path: model}
tasks:
  - name: t
    head: label_embedding
    data: {train: [a.csv, b.csv], test: c.csv, columns: {input: x, pair: y, label: z}, on_missing_label: skip, on_bad_sample: skip, too_long: error}
    loss: {class_weights: {given: {1: 2, yes: 3.5}}}
    zero_shot: {descriptions: d.csv}
    adaptation: {method: cdan, target: {train: e.csv}, sources: apart, params: {entropy: true, hidden: 64}}
  - {name: v, head: ranking, data: {train: a.csv, columns: {negative: no}}, metric: recall_at_1, evaluation: {every_steps: 6}}
  - {name: u, head: tags, data: {train: a.csv}, loss: {class_weights: balanced}, zero_shot: {descriptions: {a: first}}}
"""
        first, ranking, second = jobfile.read(text, folder="/jobs").tasks
        data = first.data
        self.assertEqual((list(data.train), list(data.test)), (["/jobs/a.csv", "/jobs/b.csv"], ["/jobs/c.csv"]))
        self.assertEqual((data.input_column, data.pair_column, data.label_column), ("x", "y", "z"))
        self.assertTrue(data.skip_missing_labels)
        self.assertEqual((data.on_bad_sample, data.too_long), (v1.Data.SKIP, v1.Data.ERROR))
        self.assertEqual(dict(first.loss.class_weights), {"1": 2.0, "yes": 3.5})
        self.assertEqual(first.zero_shot.descriptions_file, "/jobs/d.csv")
        self.assertEqual(list(first.adaptation.target_train), ["/jobs/e.csv"])
        self.assertEqual(dict(first.adaptation.params), {"entropy": 1.0, "hidden": 64.0})
        self.assertEqual(first.adaptation.sources, v1.Adaptation.APART)
        self.assertEqual((ranking.head, ranking.data.negative_column, ranking.metric), (v1.Task.RANKING, "no", "recall_at_1"))
        self.assertEqual(ranking.evaluation.every_steps, 6)
        self.assertTrue(second.loss.balanced_class_weights)
        self.assertEqual(dict(second.zero_shot.descriptions), {"a": "first"})

    def test_words_and_numbers(self):
        # What YAML 1.1 would take for a truth or for text is what the field says.
        self.assertEqual(spec("exchange: {affinity: on}").exchange.affinity, v1.Exchange.AFFINITY_ON)
        self.assertEqual(spec("exchange: {sharding: none, dtype: bf16}").exchange.dtype, v1.Exchange.BF16)
        self.assertEqual(spec("training: {optimizer: {learning_rate: 5e-5}}").training.optimizer.learning_rate, 5e-5)
        self.assertEqual(spec("seed: 1_000").seed, 1000)
        self.assertEqual(jobfile.read(HEAD.replace("t.csv", "'t.csv', labels: [1, 2.50, no]")).tasks[0].data.labels, ["1", "2.50", "no"])
        self.assertFalse(spec("evaluation: {every_steps: ~}").evaluation.HasField("every_steps"))
        self.assertTrue(spec("checkpoint: {every_steps: 0}").checkpoint.HasField("every_steps"))

    def test_dicts_are_job_files(self):
        job = {"name": "a", "backbone": {"path": "m"}, "tasks": [{"name": "t", "head": "tags", "data": {"train": "t.csv"}}],
               "exchange": {"affinity": True}, "training": {"steps": 3, "optimizer": {"learning_rate": 1}}}
        found = jobfile.read(job, folder="/jobs")
        self.assertEqual((found.training.steps, found.training.optimizer.learning_rate), (3, 1.0))
        self.assertEqual(found.exchange.affinity, v1.Exchange.AFFINITY_ON)
        self.assertIs(jobfile.read(found), found)


class Mistakes(unittest.TestCase):
    def wrong(self, text):
        with self.assertRaises(JobFileError) as caught:
            spec(text)
        return [(v.field, v.line) for v in caught.exception.violations], str(caught.exception)

    def test_each_is_named_with_its_line(self):
        places, text = self.wrong("training: {stps: 3}\nseed: 3.0\ntuning: lora\nexchange:\n  sync: ring\n  dtype: F32")
        self.assertEqual(places, [("training.stps", 4), ("seed", 5), ("tuning.lora", 6), ("exchange.sync", 8), ("exchange.dtype", 9)])
        self.assertIn("did you mean `steps`?", text)

    def test_what_is_no_value(self):
        for bad in ["tuning: {heads: {}}", "tuning: {heads: ~, all: ~}", "training: {batch_size: 0}", "seed: -1", "name: b", "balancer: [a]",
                    "training: {optimizer: {betas: [1]}}", "evaluation: {select_best: maybe}", "sampler: {temperature: warm}", "tuning: {prompt: {text: a}}",
                    "resources: {ranks: 5000000000}", "training: {clip_norm: inf}", "training: {optimizer: {method: adam}}"]:
            with self.subTest(bad):
                self.wrong(bad)

    def test_what_is_no_job_file(self):
        for bad in ["a: [\n", "\n\n", "- a\n- b\n", "a: b\n---\nc: d\n", "a: &x [*x]\n", "&a [" + "[" * 100 + "\n"]:
            with self.subTest(bad), self.assertRaises(JobFileError):
                jobfile.read(bad)
        with self.assertRaisesRegex(JobFileError, "No such file"):
            jobfile.read("no-such-job.yaml")


class Places(unittest.TestCase):
    def test_paths(self):
        with mock.patch.dict(os.environ, {"HOME": "/home/me"}):
            cases = {"a/../b": "/jobs/a/../b", "./a//b/": "/jobs/a/b/", "/x": "/x", "~/m": "/home/me/m", "s3://b/k": "s3://b/k", "": ""}
            self.assertEqual({path: jobfile.absolute(path, "/jobs") for path in cases}, cases)
        self.assertEqual(spec("output: out").output, "/jobs/out")
        self.assertEqual(spec("seed: 1").output, "")

    def test_overrides(self):
        job = HEAD + "balancer: upgrad\nsampler: uniform\n"
        changes = {"training.steps": 3, "tasks.t.weight": 2, "tasks[0].head": "tags", "balancer.scale": 0.5, "sampler.temperature": 2.0, "name": "b"}
        found = jobfile.read(job, changes)
        self.assertEqual((found.name, found.training.steps, found.sampler.temperature), ("b", 3, 2.0))
        self.assertEqual((found.tasks[0].weight, found.tasks[0].head), (2.0, v1.Task.TAGS))
        self.assertEqual((found.balancer.method, found.balancer.scale), ("upgrad", 0.5))
        for bad in ["tasks.nobody.weight", "tasks[7].weight", "training[0]"]:
            with self.subTest(bad), self.assertRaises(JobFileError):
                jobfile.read(job, {bad: 1})


if __name__ == "__main__":
    unittest.main()
