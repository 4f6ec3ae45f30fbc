#!/usr/bin/env python3
"""A client in stock grpcio, without generated code, against a running Espalier cluster.

Everything it knows of the API comes from server reflection: it lists the services, asks for health,
submits a small job, watches it to its end, and reads it back. Exit code 0 if all of it went as said.

    python3 tests/python/client.py --server http://127.0.0.1:7443     a cluster that runs
    python3 tests/python/client.py                                    starts one, and stops it
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

REPO = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("ESPALIER_BIN_DIR") or Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "debug")
MODEL = Path(os.environ.get("ESPALIER_MINILM") or REPO / ".espalier/models/all-MiniLM-L6-v2")
SERVICES = ["espalier.v1.JobService", "espalier.v1.ClusterService", "grpc.health.v1.Health"]
SECONDS = 180
COLOURS = ["red", "green", "blue", "yellow"]


class Failure(Exception):
    """Something was not as the API promises."""


class Client:
    """Calls methods by name; requests are dicts, answers messages built from reflected descriptors."""

    def __init__(self, server):
        self.channel = grpc.insecure_channel(server.removeprefix("http://"))
        self.reflected = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.reflected)

    def services(self):
        return sorted(self.reflected.get_services())

    def call(self, method, request=None, timeout=SECONDS):
        """The answer, or an iterator of answers where the method streams."""
        service, _, name = method.rpartition("/")
        described = self.pool.FindServiceByName(service).methods_by_name[name]
        asked = message_factory.GetMessageClass(described.input_type)
        answered = message_factory.GetMessageClass(described.output_type)
        kind = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        stub = kind(f"/{method}", request_serializer=asked.SerializeToString, response_deserializer=answered.FromString)
        return stub(json_format.ParseDict(request or {}, asked()), timeout=timeout)


def enum_name(message, field):
    return message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number[getattr(message, field)].name


def expect(found, wanted, what):
    if found != wanted:
        raise Failure(f"{what} is {found}, expected {wanted}")


def write_rows(path, rows):
    sentences = [{"text": f"the {thing} is {COLOURS[i % 4]}", "label": COLOURS[i % 4]}
                 for i, thing in zip(range(rows), ["car", "small house", "sky in the evening", "flower", "old wooden door"] * rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in sentences))


def job(folder, name):
    write_rows(folder / "train.jsonl", 64)
    write_rows(folder / "test.jsonl", 16)
    return {
        "name": name,
        "seed": 1,
        "backbone": {"path": str(MODEL.resolve()), "max_tokens": 32, "pooling": "MEAN"},
        "tuning": {"heads": {}},
        "tasks": [{"name": "colour", "head": "SINGLE_LABEL",
                   "data": {"train": [str(folder / "train.jsonl")], "test": [str(folder / "test.jsonl")]}}],
        "training": {"steps": 12, "batch_size": 8, "optimizer": {"head_learning_rate": 0.05}},
        "checkpoint": {"every_steps": 0},
        "output": str(folder / "export"),
    }


def refuses_nonsense(client, spec):
    """A job that cannot be is refused with every violated field, and nothing is created."""
    wrong = {**spec, "name": "Not A Name", "tasks": []}
    try:
        client.call("espalier.v1.JobService/CreateJob", {"spec": wrong, "validate_only": True})
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.INVALID_ARGUMENT, "the code for a wrong job")
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
        for field in (b"google.rpc.BadRequest", b"name", b"tasks"):
            expect(field in details, True, f"{field.decode()} in the details of the refusal")
        print(f"refused: {error.details()}")
        return
    raise Failure("a job without tasks was accepted")


def check(server, folder):
    client = Client(server)
    services = client.services()
    print("services: " + ", ".join(services))
    missing = sorted(set(SERVICES) - set(services))
    expect(missing, [], "what reflection does not list")

    for service in ["", *SERVICES[:2]]:
        health = client.call("grpc.health.v1.Health/Check", {"service": service}, timeout=10)
        expect(enum_name(health, "status"), "SERVING", f"health of {service or 'the server'}")

    workers = client.call("espalier.v1.ClusterService/ListWorkers", timeout=10).workers
    print("workers: " + ", ".join(f"{worker.name} {enum_name(worker, 'state')}" for worker in workers))
    expect(len(workers) > 0, True, "that the cluster has workers")

    name = f"client-{os.getpid()}"
    spec = job(folder, name)
    refuses_nonsense(client, spec)
    created = client.call("espalier.v1.JobService/CreateJob", {"spec": spec})
    expect(created.name, name, "the created job's name")
    states, sequences, steps = [], [], []
    for update in client.call("espalier.v1.JobService/WatchJob", {"name": name}):
        if update.WhichOneof("update") == "event":
            event = update.event
            sequences.append(event.sequence)
            if not states or states[-1] != enum_name(event, "state"):
                states.append(enum_name(event, "state"))
            print(f"  {event.sequence:>2} {enum_name(event, 'state'):<10} {event.message}")
        else:
            steps.append(update.progress.step)
    print("states: " + " -> ".join(states))
    expect(states, ["QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"], "the course of the job")
    expect(sequences, list(range(1, len(sequences) + 1)), "the events' numbering")
    expect(steps, sorted(steps), "the order of progress")

    done = client.call("espalier.v1.JobService/GetJob", {"name": name})
    expect(done.progress.step, 12, "steps done")
    tests = [evaluation for evaluation in done.evaluations if evaluation.split == "test"]
    expect(len(tests), 1, "evaluations on the test split")
    scores = tests[0].tasks["colour"]
    print(f"test accuracy {scores.metrics['accuracy']:.2f}, majority {scores.baseline['accuracy']:.2f}")
    expect(scores.metrics["accuracy"] > scores.baseline["accuracy"], True, "that training beat the majority class")
    expect((Path(done.export_path) / "model.safetensors").is_file(), True, f"that {done.export_path} holds a model")

    client.call("espalier.v1.JobService/DeleteJob", {"name": name})
    try:
        client.call("espalier.v1.JobService/GetJob", {"name": name})
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.NOT_FOUND, "the code for a deleted job")
    else:
        raise Failure(f"{name} was deleted and is still there")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="address of a coordinator whose workers see this machine's files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.server:
            check(args.server, folder)
        else:
            own = ["--dir", str(folder / "cluster")]
            subprocess.run([BIN / "espalier", "up", *own, "--listen", "127.0.0.1:0", "--detach", "--quiet"], check=True)
            try:
                check(json.loads((folder / "cluster/up.json").read_text())["server"], folder)
            finally:
                subprocess.run([BIN / "espalier", "down", *own], check=True)
    print("client.py: passed")


if __name__ == "__main__":
    try:
        main()
    except (Failure, grpc.RpcError, subprocess.CalledProcessError) as error:
        sys.exit(f"client.py: failed: {error}")
