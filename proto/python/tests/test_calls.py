"""Promise: what was asked for is done once, and what was watched is seen once, whatever coordinators do.

The server is a real gRPC server that plays a script; what it is asked it keeps.
"""

import asyncio
import contextlib
import io
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from concurrent import futures
from pathlib import Path
from unittest import mock

import grpc
from google.protobuf import any_pb2, message_factory
from google.rpc import error_details_pb2, status_pb2

from espalier import AsyncClient, Client, _calls, _progress, errors, v1

JOB = v1.JobSpec(name="a")


def refusal(code, message, reason="", metadata=None, fields=()):
    """An error with details, as a coordinator sends it."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in [error_details_pb2.ErrorInfo(reason=reason, domain="espalier", metadata=metadata or {}),
                   error_details_pb2.BadRequest(field_violations=[{"field": name, "description": text} for name, text in fields])]:
        status.details.append(any_pb2.Any())
        status.details[-1].Pack(detail)
    return code, message, ((errors.DETAILS, status.SerializeToString()),)


AWAY = refusal(grpc.StatusCode.UNAVAILABLE, "restarting")


def not_leader(address):
    return refusal(grpc.StatusCode.UNAVAILABLE, "another one leads", "NOT_LEADER", {"leader": address})


def event(sequence):
    return v1.WatchJobResponse(event=v1.JobEvent(sequence=sequence))


class Server(grpc.GenericRpcHandler):
    """Answers each call with the next entry of its script: a message, a list of them for a stream, an error as it ends."""

    def __init__(self, credentials=None, port=0, **scripts):
        self.scripts = {"GetCluster": [v1.Cluster()] * 20, **scripts}
        self.asked = []
        self.server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        bind = f"127.0.0.1:{port}"
        self.port = self.server.add_secure_port(bind, credentials) if credentials else self.server.add_insecure_port(bind)
        self.address = f"127.0.0.1:{self.port}"
        self.server.start()

    def service(self, details):
        name = details.method.rpartition("/")[2]
        method = _calls.METHODS[name]
        request = message_factory.GetMessageClass(method.input_type)
        metadata = dict(details.invocation_metadata)

        def answers(asked, context):
            self.asked.append((name, asked, metadata.get("authorization")))
            entry = self.scripts[name].pop(0)
            for answer in entry if isinstance(entry, list) else [entry]:
                if isinstance(answer, tuple):
                    context.set_trailing_metadata(answer[2])
                    context.abort(*answer[:2])
                yield answer

        kind = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        act = answers if method.server_streaming else lambda asked, context: next(answers(asked, context))
        return kind(act, request_deserializer=request.FromString, response_serializer=lambda answer: answer.SerializeToString())

    def calls(self, name):
        return [asked for called, asked, _ in self.asked if called == name]


class Detour:
    """A way to a port that takes long: what comes first waits, longer than between neighbours, shorter than for ever."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.to = port
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        # Ends with the listener.
        with contextlib.suppress(OSError):
            while True:
                here, _ = self.listener.accept()
                time.sleep(0.5)
                there = socket.create_connection(("127.0.0.1", self.to))
                for ends in [(here, there), (there, here)]:
                    threading.Thread(target=self.pass_on, args=ends, daemon=True).start()

    @staticmethod
    def pass_on(source, target):
        with contextlib.suppress(OSError), source, target:
            while part := source.recv(65536):
                target.sendall(part)

    def close(self):
        self.listener.close()


class Faults(unittest.TestCase):
    def serve(self, **scripts):
        server = Server(**scripts)
        self.addCleanup(server.server.stop, None)
        return server

    def client(self, *servers, **options):
        client = Client(",".join(server.address for server in servers), **options)
        self.addCleanup(client.close)
        return client

    def test_the_leader_is_followed(self):
        leads = self.serve(GetJob=[v1.Job(name="a")])
        follows = self.serve(GetJob=[not_leader(leads.address)])
        client = self.client(follows, token="secret")
        self.assertEqual(client.get("a").name, "a")
        self.assertEqual(client.server, f"http://{leads.address}")
        self.assertEqual(leads.asked[-1][2], "Bearer secret")

    def test_a_submission_is_repeated_with_its_id(self):
        server = self.serve(CreateJob=[AWAY, v1.Job(name="a")])
        client = self.client(server)
        client.cluster()
        self.assertEqual(client.submit(JOB).name, "a")
        first, second = (call.request_id for call in server.calls("CreateJob"))
        self.assertEqual(first, second)
        self.assertEqual(len(first), 36)

    def test_a_steering_call_is_not_repeated(self):
        server = self.serve(CancelJob=[AWAY, v1.Job()])
        with self.assertRaises(errors.UnavailableError):
            self.client(server).cancel("a")
        self.assertEqual(len(server.calls("CancelJob")), 1)
        # It did not happen where another one leads, so there it is made.
        leads = self.serve(CancelJob=[v1.Job(name="a")])
        follows = self.serve(CancelJob=[not_leader(leads.address)])
        self.assertEqual(self.client(follows).cancel("a").name, "a")

    def test_a_watch_goes_on_without_gap_or_repetition(self):
        ends = self.serve(WatchJob=[[event(4), event(5)]])
        breaks = self.serve(WatchJob=[[event(1), event(2), AWAY], [event(3), not_leader(ends.address)]])
        self.assertEqual([update.event.sequence for update in self.client(breaks).watch("a")], [1, 2, 3, 4, 5])
        self.assertEqual([call.after_sequence for call in breaks.calls("WatchJob") + ends.calls("WatchJob")], [0, 2, 3])

    def test_a_log_that_is_followed_comes_once(self):
        def line(seconds, text):
            return v1.LogLine(time={"seconds": seconds}, text=text)

        server = self.serve(TailJobLogs=[[line(2, "b"), line(2, "b"), line(3, "c"), AWAY], [line(1, "a"), line(2, "b"), line(3, "c"), line(3, "d")]])
        self.assertEqual([one.text for one in self.client(server).logs("a", tail=3, follow=True)], ["b", "b", "c", "d"])
        self.assertEqual([call.tail for call in server.calls("TailJobLogs")], [3, 0])
        broken = self.serve(TailJobLogs=[[line(2, "b"), AWAY]])
        with self.assertRaises(errors.UnavailableError):
            list(self.client(broken).logs("a"))

    def test_errors_say_what_was_wrong(self):
        fields = [("name", "is empty"), ("tasks[2].head", "is required")]
        server = self.serve(CreateJob=[refusal(grpc.StatusCode.INVALID_ARGUMENT, "bad", "INVALID_FIELDS", fields=fields)],
                            GetJob=[refusal(grpc.StatusCode.NOT_FOUND, "no job is named a", "JOB_NOT_FOUND", {"job": "a"})])
        client = self.client(server)
        with self.assertRaises(errors.InvalidArgumentError) as caught:
            client.submit(JOB)
        self.assertEqual([(v.field, v.message) for v in caught.exception.violations], fields)
        with self.assertRaises(errors.NotFoundError) as missing:
            client.get("a")
        self.assertEqual((missing.exception.reason, dict(missing.exception.metadata)), ("JOB_NOT_FOUND", {"job": "a"}))
        self.assertFalse(missing.exception.retryable)

    def test_nobody_there_is_said_at_once(self):
        gone = self.serve()
        gone.server.stop(None).wait()
        with self.assertRaisesRegex(errors.UnavailableError, f"coordinator at http://{gone.address}: nothing listens there.*espalier up") as caught:
            self.client(gone).get("a")
        # gRPC's own words are for those who look for them.
        self.assertIn("Connection refused", caught.exception.metadata["grpc"])

    def test_a_deadline_is_said(self):
        server = self.serve(WatchJob=[[event(1)]])
        with self.assertRaisesRegex(errors.DeadlineExceededError, "`timeout` was over"):
            list(self.client(server).watch("a", timeout=0.0))

    def test_a_long_way_is_no_way_that_is_shut(self):
        server = self.serve(GetJob=[v1.Job(name="a")])
        far = Detour(server.port)
        self.addCleanup(far.close)
        with Client(f"http://127.0.0.1:{far.port}") as client:
            self.assertEqual(client.get("a").name, "a")

    def test_who_comes_back_is_found_soon(self):
        server = self.serve(GetJob=[v1.Job(name="a")])
        client = self.client(server)
        client.get("a")
        port = server.port
        server.server.stop(None).wait()
        back = futures.ThreadPoolExecutor(1)
        self.addCleanup(back.shutdown)
        begun = back.submit(lambda: self.serve(port=port, GetJob=[v1.Job(name="b")]))
        self.assertEqual(client.get("a").name, "b")
        begun.result()

    def test_pages_are_one_list(self):
        pages = [v1.ListJobsResponse(jobs=[{"name": "a"}], next_page_token="x"), v1.ListJobsResponse(jobs=[{"name": "b"}])]
        server = self.serve(ListJobs=pages)
        self.assertEqual([job.name for job in self.client(server).list(states=["running"], namespace="n")], ["a", "b"])
        self.assertEqual([(call.page_token, list(call.states), call.namespace) for call in server.calls("ListJobs")],
                         [("", [v1.Job.RUNNING], "n"), ("x", [v1.Job.RUNNING], "n")])

    def test_a_job_that_fails_is_an_error(self):
        failed = v1.Job(name="a", state=v1.Job.FAILED, failure={"code": "bad_data", "message": "row 3"})
        server = self.serve(WatchJob=[[event(1)]], GetJob=[failed])
        with self.assertRaisesRegex(errors.JobFailedError, "bad_data") as caught:
            self.client(server).wait("a", progress=False)
        self.assertEqual(caught.exception.job.failure.code, "bad_data")

    def test_async_as_well(self):
        ends = self.serve(WatchJob=[[event(3)]], CreateJob=[AWAY, v1.Job(name="a")], ListWorkers=[v1.ListWorkersResponse(workers=[{"name": "w"}])],
                          GetJob=[v1.Job(name="a", state=v1.Job.SUCCEEDED, export_path="/x")])
        breaks = self.serve(WatchJob=[[event(1), event(2), AWAY], [not_leader(ends.address)]], CreateJob=[not_leader(ends.address)])

        async def all_of_it():
            async with AsyncClient(breaks.address) as client:
                seen = [update.event.sequence async for update in client.watch("a")]
                job = await client.submit(JOB)
                return seen, job.name, [worker.name async for worker in client.workers()], await client.export_path("a")

        self.assertEqual(asyncio.run(all_of_it()), ([1, 2, 3], "a", ["w"], "/x"))
        self.assertEqual(len({call.request_id for call in ends.calls("CreateJob")}), 1)

    @unittest.skipUnless(shutil.which("openssl"), "needs openssl for a certificate")
    def test_encrypted(self):
        with tempfile.TemporaryDirectory() as folder:
            cert, key = certificate(Path(folder))
            pair = [(key.read_bytes(), cert.read_bytes())]
            credentials = grpc.ssl_server_credentials(pair, cert.read_bytes(), require_client_auth=True)
            elsewhere = self.serve()
            server = self.serve(credentials=credentials, GetJob=[not_leader(f"http://{elsewhere.address}"), v1.Job(name="a")])
            address = f"https://{server.address}"
            with Client(address, ca=cert, cert=cert, key=key, server_name="coordinator", token="t") as client:
                # Nor is anyone who asked for encryption sent on to where there is none.
                self.assertEqual(client.get("a").name, "a")
            self.assertEqual(elsewhere.asked, [])
            # What is wrong with the way there is said in words of this package.
            shown = {"cert": cert, "key": key}
            cases = [(address, {"ca": cert, "server_name": "coordinator"}, "may ask for a certificate"), (address, shown, "CA that is not trusted here"),
                     (address, {"ca": cert, **shown}, "for another name"), (address, {"ca": __file__, **shown}, "in PEM"),
                     (f"http://{server.address}", {}, "may speak TLS"), (f"https://{elsewhere.address}", {"ca": cert}, "speaks no TLS")]
            for where, given, words in cases:
                with self.subTest(words), Client(where, **given) as nobody, self.assertRaisesRegex(errors.UnavailableError, words):
                    nobody.get("a")

    @unittest.skipUnless(shutil.which("openssl"), "needs openssl for a certificate")
    def test_renewed_certificates(self):
        with tempfile.TemporaryDirectory() as folder:
            cert, key = certificate(Path(folder))
            other_cert, other_key = certificate(Path(folder, "other"))
            pair = [(key.read_bytes(), cert.read_bytes())]
            server = self.serve(credentials=grpc.ssl_server_credentials(pair, cert.read_bytes(), require_client_auth=True), GetJob=[v1.Job(name="a")])
            # Where there are certificates, `https://` need not be said.
            with Client(server.address, ca=cert, cert=other_cert, key=other_key, server_name="coordinator") as client:
                self.assertRaises(errors.UnavailableError, client.get, "a")
                os.replace(key, other_key)
                shutil.copyfile(cert, other_cert)
                self.assertEqual(client.get("a").name, "a")


def certificate(folder):
    """A certificate that signs itself, and its key."""
    folder.mkdir(exist_ok=True)
    cert, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-keyout", key,
                    "-out", cert, "-subj", "/CN=coordinator", "-addext", "subjectAltName=DNS:coordinator"], check=True, capture_output=True)
    return cert, key


class Progress(unittest.TestCase):
    def test_the_line_has_what_the_coordinator_says(self):
        two = v1.Progress(step=3, total_steps=9, losses={"b": 1.0, "a": 0.5}, samples_per_second=12.4, eta={"seconds": 65})
        self.assertEqual(_progress.said(two), "a 0.500, b 1.000, 12 samples/s, 1:05 left")
        # Of many tasks the mean; at the end nothing is left.
        many = v1.Progress(step=9, total_steps=9, losses={"a": 1.0, "b": 2.0, "c": 3.0}, eta={})
        self.assertEqual(_progress.said(many), "loss of 3 tasks 2.000")

    def test_lines_without_a_terminal(self):
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown), mock.patch.dict("sys.modules", {"tqdm": None}), _progress.Display("a", True) as display:
            for step in range(1, 101):
                display.show(v1.WatchJobResponse(progress={"step": step, "total_steps": 100, "losses": {"t": 1.0}}))
            display.show(v1.WatchJobResponse(event={"state": "SUCCEEDED", "message": "done"}))
        lines = shown.getvalue().splitlines()
        self.assertEqual((len(lines), lines[1], lines[-1]), (12, "a: step 10 of 100, t 1.000", "a: SUCCEEDED: done"))


class Channels(unittest.TestCase):
    @staticmethod
    def opened(*_, **__):
        # As slow as reading certificates may be: others come meanwhile.
        time.sleep(0.05)
        return mock.Mock()

    def test_threads_share_one(self):
        with Client("http://coordinator:7443") as client, futures.ThreadPoolExecutor(8) as threads:
            borrowed = [threads.submit(client._borrow, self.opened, self.opened) for _ in range(8)]
            self.assertEqual(len({id(held.result().channel) for held in borrowed}), 1)

    def test_a_replaced_one_is_closed_with_its_last_call(self):
        with Client("https://coordinator:7443") as client, mock.patch.object(client, "_stamp", side_effect=[1, 1, 2, 3]):
            borrow = lambda: client._borrow(self.opened, self.opened)
            stream, call = borrow(), borrow()
            self.assertIs(stream, call)
            renewed = borrow()
            self.assertIsNot(renewed, stream)
            self.assertEqual(client._give_back(renewed), [])
            self.assertEqual(client._give_back(call), [])
            self.assertEqual(client._give_back(stream), [stream.channel])
            # One on which nothing runs goes with the first call on its successor.
            self.assertEqual(client._give_back(borrow()), [renewed.channel])
            self.assertEqual(client._replaced, [])

    def test_elsewhere_than_on_posix(self):
        with mock.patch.dict("sys.modules", {"fcntl": None}):
            self.assertIsNone(_calls.local_server())


class Settings(unittest.TestCase):
    def test_what_makes_no_sense_is_said(self):
        for options in [{"server": " , "}, {"server": "host"}, {"server": "http://host:port"}, {"server": "ftp://host:1"}, {"server": "https://h:1", "cert": "a"},
                        {"server": "http://h:1", "ca": "a"}]:
            with self.subTest(options), self.assertRaises(errors.EspalierError):
                Client(**options)
        with self.assertWarnsRegex(UserWarning, "without encryption"):
            Client("http://coordinator:7443", token="secret").close()

    def test_a_port_forward_is_no_local_cluster(self):
        with mock.patch.object(_calls, "local_server", return_value="http://127.0.0.1:7443"):
            for address, local in [("http://127.0.0.1:7443", True), ("http://localhost:7443", True), ("https://localhost:7443", False),
                                   ("http://localhost:7444", False), ("http://10.0.0.1:7443", False)]:
                with self.subTest(address):
                    self.assertEqual(_calls.is_local(address), local)
        with mock.patch.object(_calls, "local_server", return_value=None):
            self.assertFalse(_calls.is_local("http://127.0.0.1:7443"))


if __name__ == "__main__":
    unittest.main()
